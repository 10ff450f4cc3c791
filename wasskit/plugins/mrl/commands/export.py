"""``wasskit mrl export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions, complete_local_paths
from wasskit.plugins.mrl.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class MrlExport(ModelArgument, OverwriteOptions):
    """Options of ``wasskit mrl export``."""

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
    dim: int | None = option(
        None, help="Length of the prefix in ONNX.", panel="Output", min=1, show_default="the whole embedding"
    )


def body(config: MrlExport, invocation: Invocation) -> Mapping[str, Any]:
    import torch
    from torch import nn

    from wasskit import console
    from wasskit.models.export import export_onnx, save_weights
    from wasskit.plugins.mrl.network import PrefixEmbedder
    from wasskit.plugins.mrl.trained import load_model
    from wasskit.training.trained import exported_file

    path = exported_file(config.model, config.output, plugin="mrl", claim=config.claim, onnx=config.onnx)
    model = load_model(config.model, "cpu", config.checkpoint)
    dim = model.dims[-1] if config.dim is None else config.dim
    if dim > model.dims[-1]:
        raise UserError(f"--dim: {dim} is larger than the embedding, which has {model.dims[-1]} coordinates.")
    holder = nn.ModuleDict({"network": model.network, "objective": model.objective})
    save_weights(path, holder, model.description)
    result: dict[str, Any] = {"weights": str(path), "dims": list(model.dims)}
    if not config.json:
        console.result(f"Weights: {console.escape(str(path))}")
    if config.onnx:
        described = model.description
        example = torch.zeros(2, described["channels"], described["image_size"], described["image_size"])
        example.copy_(torch.rand(example.shape, generator=torch.Generator().manual_seed(0)))
        exported = export_onnx(path.with_suffix(".onnx"), PrefixEmbedder(model.network, dim), example)
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
    "mrl export",
    MrlExport,
    body,
    "Export the weights as safetensors and ONNX.\n\n"
    "The safetensors file says in a JSON header how to build the model; `embed`, `evaluate`, `retrieve` and "
    "`classify` take it instead of a run directory. The ONNX network takes images normalised by the header's "
    "mean and std and gives embeddings of unit length (with --dim a prefix of them).",
    ("wasskit mrl export runs/mrl/digits", "wasskit mrl export runs/mrl/digits --onnx --dim 64"),
)
