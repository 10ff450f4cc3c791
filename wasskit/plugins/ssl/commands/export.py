"""``wasskit ssl export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.trained.options import NetworkExportOptions


@dataclass(frozen=True, kw_only=True)
class Export(NetworkExportOptions):
    """Options of ``wasskit ssl export``."""


def body(config: Export, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.trained import KIND
    from wasskit.trained import commands

    result = commands.export_network(KIND, config)
    # The key of earlier versions.
    return result | ({"onnx_max_error": result["onnx_error"]} if config.onnx else {})


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
