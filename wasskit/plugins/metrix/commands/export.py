"""``wasskit metrix export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.options import OverwriteOptions, complete_local_paths
from wasskit.plugins.metrix.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class MetrixExport(ModelArgument, OverwriteOptions):
    """Options of ``wasskit metrix export``."""

    output: Path | None = option(
        None,
        help="File to write (.safetensors).",
        panel="Output",
        short="-o",
        complete=complete_local_paths,
        show_default="export/model.safetensors in the run directory",
    )
    onnx: bool = option(
        False,
        help="Also write the network as ONNX (images to unit embeddings), checked against torch.",
        panel="Output",
        flag="--onnx",
    )


def body(config: MetrixExport, invocation: Invocation) -> Mapping[str, Any]:
    import torch

    from wasskit import console
    from wasskit.models.export import export_onnx, save_weights
    from wasskit.plugins.metrix.network import load_model
    from wasskit.training.trained import exported_file

    path = exported_file(config.model, config.output, plugin="metrix", claim=config.claim, onnx=config.onnx)
    model = load_model(config.model, "cpu", config.checkpoint)
    save_weights(path, model.network, model.description)
    result: dict[str, Any] = {"weights": str(path)}
    if not config.json:
        console.result(f"Weights: {console.escape(str(path))}")
    if config.onnx:
        described = model.description
        shape = (2, described["channels"], described["image_size"], described["image_size"])
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        exported = export_onnx(path.with_suffix(".onnx"), model.network, example)
        result |= {"onnx": str(exported.path), "onnx_error": exported.max_error}
        if not config.json:
            console.result(f"ONNX: {console.escape(str(exported.path))}")
            console.result(
                f"Largest difference to torch: {exported.max_error:.1e}"
                if exported.max_error is not None
                else exported.note
            )
    return result


command = Command(
    "metrix export",
    MetrixExport,
    body,
    "Export the weights as safetensors and ONNX.\n\n"
    "The safetensors file says in a JSON header how to build the network; `embed`, `search` and `evaluate` take it "
    "instead of a run directory. The ONNX network takes images normalised by the header's mean and std and gives "
    "unit embeddings.",
    (
        "wasskit metrix export runs/metrix/digits",
        "wasskit metrix export runs/metrix/cub --checkpoint best --onnx",
    ),
)
