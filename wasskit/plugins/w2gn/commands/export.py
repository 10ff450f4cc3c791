"""``wasskit w2gn export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.trained.options import ExportOptions


@dataclass(frozen=True, kw_only=True)
class W2gnExport(ExportOptions):
    """Options of ``wasskit w2gn export``."""


def body(config: W2gnExport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.maps import KIND
    from wasskit.trained import commands

    return commands.export(KIND, config)


command = Command(
    "w2gn export",
    W2gnExport,
    body,
    "Export a trained map as safetensors.\n\n"
    "The file says by itself how to rebuild the map and its inverse; `w2gn apply` takes it instead of a run directory "
    "and maps points and images by it. A map is the gradient of its potential and is not written as ONNX.",
    ("wasskit w2gn export runs/w2gn/8gaussians", "wasskit w2gn export runs/w2gn/color --output map"),
)
