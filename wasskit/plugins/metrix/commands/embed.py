"""``wasskit metrix embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.trained.options import EmbedOptions


@dataclass(frozen=True, kw_only=True)
class MetrixEmbed(EmbedOptions):
    """Options of ``wasskit metrix embed``."""


def body(config: MetrixEmbed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.metrix.trained import KIND
    from wasskit.trained import commands

    return commands.embed(KIND, config)


command = Command(
    "metrix embed",
    MetrixEmbed,
    body,
    "Embed a folder of images.\n\nRow i of the .npy file is the unit embedding of the image in row i of the CSV.",
    (
        "wasskit metrix embed runs/metrix/cub photos/ --output photos.npy",
        "wasskit metrix embed model.safetensors photos/ --dtype float16",
    ),
)
