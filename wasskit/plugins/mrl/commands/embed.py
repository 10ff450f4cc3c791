"""``wasskit mrl embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.trained.options import EmbedOptions


@dataclass(frozen=True, kw_only=True)
class MrlEmbed(EmbedOptions):
    """Options of ``wasskit mrl embed``."""

    dim: int | None = option(
        None, help="Length of the prefix.", panel="Embeddings", min=1, show_default="the whole embedding"
    )
    unit: bool = option(
        False,
        help="Scale the prefix to unit length again (otherwise it is a part of the unit embedding).",
        panel="Embeddings",
        flag="--unit",
    )


def body(config: MrlEmbed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.trained import KIND
    from wasskit.trained import commands

    return commands.embed(KIND, config, dim=config.dim, unit=config.unit)


command = Command(
    "mrl embed",
    MrlEmbed,
    body,
    "Embed a folder of images at a chosen dimension.\n\n"
    "Row i of the .npy file is the embedding of the image in row i of the CSV.",
    (
        "wasskit mrl embed runs/mrl/digits photos/ --dim 64 --output photos.npy",
        "wasskit mrl embed model.safetensors photos/ --dim 16 --unit",
    ),
)
