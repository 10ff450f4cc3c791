"""The network under the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.views import ViewDistribution
from wasskit.models.backbones import Backbone, described_backbone
from wasskit.models.catalog import TINY
from wasskit.models.heads import MLP
from wasskit.plugins.ssl.options import PretrainOptions, ViewOptions
from wasskit.trained.kind import ImageDescription, describe_images

NATURAL = ViewDistribution()
CHARACTERS = ViewDistribution(scale=(0.5, 1.0), flip=0.0, grey=0.0, blur=0.0, solarise=0.0)


class Description(ImageDescription):
    """What says how to build an encoder again, and of which views of the images it was trained."""

    method: str
    projector: list[int]
    views: Mapping[str, Any]


class Encoder(nn.Module):
    """Images (B, channels, H, W) -> backbone -> projector -> projections z (B, D), not normalised.

    The losses and the uniformity metrics see the projections; what is kept for use, and what classifiers
    see, are the backbone's features.
    """

    def __init__(self, backbone: Backbone, projector: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = MLP((backbone.num_features, *projector))

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.projector(self.backbone(images))
        return projections

    def both(self, images: Tensor) -> Tensor:
        """Features and projections side by side, (B, num_features + D): both from one pass."""
        features = self.backbone(images)
        return torch.cat([features, self.projector(features)], dim=1)


@dataclass(frozen=True)
class SslModel:
    """A pretrained encoder with its description."""

    encoder: Encoder
    description: Description

    @property
    def views(self) -> ViewDistribution:
        return views_of(self.description)

    @property
    def projector_width(self) -> int:
        return int(self.description["projector"][-1])


def describe(config: PretrainOptions, method: str, dataset: ImageDataset) -> Description:
    """The description of the model that a configuration trains on a data set."""
    common = describe_images("ssl", config.model, dataset, large="resnet18")
    widths = (512, 512, 128) if common["backbone"] == TINY else (2048, 2048, 256)
    return {
        **common,
        "method": method,
        "projector": list(config.projector or widths),
        "views": asdict(view_distribution(config.views, dataset.channels)),
    }


def view_distribution(options: ViewOptions, channels: int) -> ViewDistribution:
    """The distribution of views that the options ask for, on images with so many channels."""
    kind = options.views
    if kind == "auto":
        kind = "characters" if channels == 1 else "natural"
    chosen = CHARACTERS if kind == "characters" else NATURAL
    if options.min_crop is not None:
        chosen = replace(chosen, scale=(options.min_crop, 1.0))
    named = {name: getattr(options, name) for name in ("flip", "jitter", "grey", "blur", "solarise")}
    return replace(chosen, **{name: value for name, value in named.items() if value is not None})


def views_of(description: Mapping[str, Any]) -> ViewDistribution:
    """The distribution of views that a description records."""
    stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["views"].items()}
    return ViewDistribution(**stored)


def build_encoder(description: Mapping[str, Any], **weights: Any) -> Encoder:
    """An untrained encoder; ``weights``: ``pretrained``, ``weights``, ``download`` of ``build_backbone``."""
    backbone = described_backbone(description, **weights)
    return Encoder(backbone, tuple(description["projector"]))
