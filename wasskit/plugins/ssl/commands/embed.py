"""``wasskit ssl embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, Invocation, option
from wasskit.trained.options import EmbedOptions


@dataclass(frozen=True, kw_only=True)
class Embed(EmbedOptions):
    """Options of ``wasskit ssl embed``."""

    what: Literal["features", "projections"] = option(
        "features", help="The backbone's features, or the projector's projections.", panel="Embeddings"
    )


def body(config: Embed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.trained import KIND
    from wasskit.trained import commands

    return commands.embed(KIND, config, what=config.what)


command = Command(
    "ssl embed",
    Embed,
    body,
    "Embed a folder of images by a pretrained backbone.",
    ("wasskit ssl embed runs/ssl/byol-cifar10 PHOTOS -o photos.npy",),
)
