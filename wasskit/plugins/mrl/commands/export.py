"""``wasskit mrl export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.trained.options import NetworkExportOptions


@dataclass(frozen=True, kw_only=True)
class MrlExport(NetworkExportOptions):
    """Options of ``wasskit mrl export``."""

    dim: int | None = option(
        None, help="Length of the prefix in ONNX.", panel="Output", min=1, show_default="the whole embedding"
    )


def body(config: MrlExport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.trained import KIND
    from wasskit.trained import commands

    return commands.export_network(KIND, config, dim=config.dim)


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
