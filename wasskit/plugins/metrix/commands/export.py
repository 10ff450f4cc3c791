"""``wasskit metrix export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.trained.options import NetworkExportOptions


@dataclass(frozen=True, kw_only=True)
class MetrixExport(NetworkExportOptions):
    """Options of ``wasskit metrix export``."""


def body(config: MetrixExport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.metrix.trained import KIND
    from wasskit.trained import commands

    return commands.export_network(KIND, config)


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
