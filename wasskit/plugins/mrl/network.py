"""The network under the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.errors import UserError
from wasskit.models.backbones import described_backbone
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss, normalise
from wasskit.plugins.mrl.options import TrainingOptions, check_weights, default_dims
from wasskit.trained.kind import ImageDescription, describe_images

LARGE = "resnet50"
"""The backbone for images larger than those of ``tiny``, where none is named."""


class Description(ImageDescription):
    """What says how to build a model again and what it was trained on."""

    dims: list[int]
    tied: bool
    embedding: Literal["linear", "identity"]


class MatryoshkaNetwork(nn.Module):
    """Images (B, channels, H, W) -> backbone -> linear layer of the largest dimension -> embeddings (B, D).

    The embeddings are raw; the objective normalises them over their full width. With ``embedding="identity"``
    the features are the embedding, as in the published network of full width trained alone.
    """

    def __init__(
        self, backbone: nn.Module, features: int, dim: int, embedding: Literal["linear", "identity"] = "linear"
    ) -> None:
        super().__init__()
        if dim > features:
            raise UserError(
                f"--dims: {dim} is larger than the embedding, which has the backbone's {features} coordinates."
            )
        if embedding == "identity" and dim != features:
            raise UserError(
                f"--embedding identity: the largest dimension must be the backbone's {features}, not {dim}."
            )
        self.backbone = backbone
        self.embedding = nn.Linear(features, dim) if embedding == "linear" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.embedding(self.backbone(images))
        return embeddings

    def normalised(self, images: Tensor) -> Tensor:
        """Embeddings of unit length, of which all prefixes are taken."""
        return normalise(self(images))


class PrefixEmbedder(nn.Module):
    """The first ``dim`` coordinates of a network's unit embedding, scaled to unit length again with ``unit``."""

    def __init__(self, network: nn.Module, dim: int, *, unit: bool = False) -> None:
        super().__init__()
        self.network = network
        self.dim = dim
        self.unit = unit

    def forward(self, inputs: Tensor) -> Tensor:
        # Not `normalise`, whose hand-made gradient ONNX cannot express.
        prefix = nn.functional.normalize(self.network(inputs), dim=1)[:, : self.dim]
        return nn.functional.normalize(prefix, dim=1) if self.unit else prefix


def prefix_length(dims: Sequence[int], dim: int | None, whole: str) -> int:
    """``dim``, None: all. Raises ``UserError`` where the ``whole`` vectors, as the sentence names them, are shorter."""
    if dim is None:
        return dims[-1]
    if not 0 < dim <= dims[-1]:
        raise UserError(f"--dim: {dim} is larger than {whole.format(dims[-1])}.")
    return dim


@dataclass(frozen=True)
class MrlModel:
    """A network with the classifiers it was trained with."""

    network: MatryoshkaNetwork
    objective: MatryoshkaWassersteinLoss
    description: Description

    @property
    def dims(self) -> tuple[int, ...]:
        return self.objective.dims

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.description["classes"])


def describe(config: TrainingOptions, dataset: ImageDataset) -> dict[str, Any]:
    """The description of the model that a configuration trains on a data set (``dims`` None: by its width).

    Raises:
        UserError: the images are all of one class, of which every classifier is right.
    """
    if len(dataset.classes) == 1:
        raise UserError(
            f"All images of {dataset.name} are of one class, {dataset.classes[0]}: there is nothing to tell apart. "
            "Name the folder that holds the class folders by --data-root, or train without labels (wasskit ssl)."
        )
    return {
        **describe_images("mrl", config.model, dataset, large=LARGE),
        "embedding": config.method.embedding,
        "dims": list(config.method.dims) if config.method.dims is not None else None,
        "tied": config.method.tied,
    }


def build_model(description: Mapping[str, Any], objective: Mapping[str, Any] | None = None, **weights: Any) -> MrlModel:
    """An untrained model.

    Args:
        description: see :class:`Description`; ``dims`` None stands for the backbone's width halved up to eight times.
        objective: further settings of the loss.
        weights: ``pretrained``, ``weights``, ``download`` of :func:`wasskit.models.backbones.build_backbone`.
    """
    backbone = described_backbone(description, **weights)
    dims = check_dims(description["dims"] or default_dims(backbone.num_features))
    network = MatryoshkaNetwork(backbone, backbone.num_features, dims[-1], description["embedding"])
    settings = dict(objective or {})
    check_weights(settings.get("ce_weights"), dims)
    loss = MatryoshkaWassersteinLoss(len(description["classes"]), dims, tied=description["tied"], **settings)
    return MrlModel(network, loss, cast(Description, {**description, "dims": list(dims)}))
