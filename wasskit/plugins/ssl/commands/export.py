"""``wasskit ssl export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, Invocation, argument, option
from wasskit.options import OverwriteOptions, complete_models


@dataclass(frozen=True, kw_only=True)
class Export(OverwriteOptions):
    """Options of ``wasskit ssl export``."""

    run: Path = argument(help="Run directory or checkpoint (.pt).", complete=complete_models, metavar="MODEL")
    checkpoint: Literal["last", "best"] = option(
        "last", help="Which checkpoint of a run directory.", panel="Model"
    )
    output: Path | None = option(
        None,
        help="File to write (.safetensors).",
        panel="Output",
        short="-o",
        show_default="export/ in the run",
    )
    onnx: bool = option(False, help="Also write the backbone as ONNX, checked against torch.", panel="Output")


def body(config: Export, invocation: Invocation) -> Mapping[str, Any]:
    import torch

    from wasskit import console
    from wasskit.models.export import export_onnx, save_weights
    from wasskit.plugins.ssl.network import load_model
    from wasskit.training.trained import exported_file

    output = config.output
    if output is not None and output.suffix != ".safetensors":
        output = output.with_name(output.name + ".safetensors")
    path = exported_file(config.run, output, plugin="ssl", claim=config.claim, onnx=config.onnx)
    model = load_model(config.run, checkpoint=config.checkpoint)
    save_weights(path, model.encoder, model.description)
    written: dict[str, Any] = {"weights": str(path)}
    if not config.json:
        console.result(f"Backbone and projector: {console.escape(str(path))}")
    if config.onnx:
        size, channels = model.description["image_size"], model.description["channels"]
        exported = export_onnx(
            path.with_suffix(".onnx"), model.encoder.backbone, torch.zeros(2, channels, size, size)
        )
        written |= {"onnx": str(exported.path), "onnx_max_error": exported.max_error}
        if not config.json:
            error = (
                "not checked" if exported.max_error is None else f"within {exported.max_error:.1e} of torch"
            )
            console.result(f"Backbone as ONNX, {error}: {console.escape(str(exported.path))}")
    return written


command = Command(
    "ssl export",
    Export,
    body,
    "Export a pretrained model as safetensors, and its backbone as ONNX on request.\n\n"
    "The file says by itself how to rebuild the network; `wasskit ssl evaluate`, `knn`, `linear` and `embed` take it "
    "in place of a run directory, and --weights starts other trainings from its backbone.",
    (
        "wasskit ssl export runs/ssl/byol-w2-digits",
        "wasskit ssl export runs/ssl/byol-w2-digits --onnx -o byol",
    ),
)
