"""What is mixed, a file each: images, the last feature maps, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from wasskit.plugins.metrix.mixers.base import Mixer, Sources
from wasskit.plugins.metrix.mixers.embed import EmbedMixer
from wasskit.plugins.metrix.mixers.feature import FeatureMixer
from wasskit.plugins.metrix.mixers.input import InputMixer

__all__ = ["MIXERS", "Mode", "Sources"]

Mode = Literal["baseline", "input", "feature", "embed"]

MIXERS: dict[Mode, Callable[[Tensor, Sources], Mixer]] = {
    "input": InputMixer,
    "feature": FeatureMixer,
    "embed": EmbedMixer,
}
