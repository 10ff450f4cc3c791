"""The network under the losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.base import ImageDataset
from wasskit.errors import UserError
from wasskit.models.backbones import Backbone, build_backbone, described_backbone
from wasskit.models.catalog import TINY
from wasskit.models.heads import AverageMaxPool, LinearEmbedding
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.trained.kind import ImageDescription, describe_images


class Description(ImageDescription):
    """What says how to build a network again; ``classes`` are those it was trained on."""

    pooling: str
    embedding_size: int


class FeatureMaps(nn.Module):
    """A backbone up to its last feature maps: images (B, channels, H, W) to (B, C, H', W')."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.feature_maps(images)


class MetricNetwork(nn.Module):
    """Images (B, channels, H, W) to unit embeddings (B, dim).

    Backbone, sum of average and maximum over the positions of its last maps, linear layer, L2 norm. A
    backbone without maps (a transformer) keeps its own pooling, ``pooling="own"``. With ``freeze_batch_norm``
    the normalisation layers of the backbone always use their running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        dim: int,
        *,
        pooling: Literal["avgmax", "own"] = "avgmax",
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = FeatureMaps(backbone)
        self.pooling = pooling
        self.pool = AverageMaxPool()
        width = backbone.map_channels if pooling == "avgmax" else backbone.num_features
        self.head = LinearEmbedding(width, dim, kaiming=True)
        self.freeze_batch_norm = freeze_batch_norm

    def maps_and_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """The last feature maps, where the network pools them itself, and the embeddings."""
        if self.pooling == "own":
            return None, self.head(self.trunk.backbone(images))
        maps = self.trunk(images)
        return maps, self.head(self.pool(maps))

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features to embeddings before they are normalised."""
        return F.linear(pooled, self.head.weight, self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps_and_embeddings(images)[1]

    def train(self, mode: bool = True) -> MetricNetwork:
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.trunk.modules():
                # By name, so that synchronised batch norm is met as well.
                if "BatchNorm" in type(module).__name__:
                    module.eval()
        return self


@dataclass(frozen=True)
class MetrixModel:
    """A network and how to build it again."""

    network: MetricNetwork
    description: Description


def describe(config: TrainingOptions, train: ImageDataset) -> Description:
    """The description of the model that a configuration trains on a data set."""
    common = describe_images("metrix", config.model, train, large="resnet50")
    return {
        **common,
        "pooling": "avgmax",
        "embedding_size": config.method.embedding_size or (64 if common["backbone"] == TINY else 512),
    }


def build_model(description: Mapping[str, Any], *, freeze_batch_norm: bool = False, **weights: Any) -> MetrixModel:
    """An untrained model.

    ``weights``: ``pretrained``, ``weights``, ``download`` of :func:`wasskit.models.backbones.build_backbone`.
    """
    backbone = described_backbone(description, **weights)
    pooling = description["pooling"]
    network = MetricNetwork(
        backbone, description["embedding_size"], pooling=pooling, freeze_batch_norm=freeze_batch_norm
    )
    return MetrixModel(network, cast(Description, dict(description)))


def gives_maps(backbone: str, **options: Any) -> bool:
    """Whether a backbone ends in feature maps. A transformer does not; ours and torchvision's all do."""
    from wasskit.models.catalog import library_of

    if library_of(backbone)[0] in ("wasskit", "torchvision"):
        return True
    built = build_backbone(backbone, **options).eval()
    example = torch.zeros(1, options["channels"], options["image_size"], options["image_size"])
    try:
        with torch.no_grad():
            built.feature_maps(example)
    except UserError:
        return False
    return True
