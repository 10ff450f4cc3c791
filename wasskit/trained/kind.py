"""The contract of a trained model.

A plugin that trains a network declares one :class:`ModelKind`: its name, how a model is built from its description, and
the network that embeds. Loading, embedding and exporting follow from it, on the command line and in Python.

A description is a mapping of plain values that travels inside checkpoints and exported weights: nothing but the file is
needed to rebuild a model, neither the data set nor the run directory it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from wasskit.data.transforms import Normalise
from wasskit.errors import UserError
from wasskit.evaluation.embedding import evaluating
from wasskit.models.rebuild import check_description, rebuild
from wasskit.trained.files import is_exported, read_model

if TYPE_CHECKING:
    from wasskit.data.base import ImageDataset
    from wasskit.data.transforms import PerImage

__all__ = ["ImageDescription", "ModelKind", "TrainedModel", "describe_images"]

Checkpoint = Literal["last", "best"]
Check = Callable[[Any, Path], Mapping[str, Any]]
M = TypeVar("M", bound="Described")


class Described(Protocol):
    """What every model has besides its networks."""

    @property
    def description(self) -> Mapping[str, Any]: ...


class ImageDescription(TypedDict):
    """What every description of a network on images says; a plugin's own adds keys."""

    kind: str
    backbone: str
    stem: str
    dataset: str
    classes: list[str]
    image_size: int
    channels: int
    mean: list[float]
    std: list[float]


class BackboneSettings(Protocol):
    """What :func:`describe_images` reads of the options of a training."""

    @property
    def dataset(self) -> str: ...
    @property
    def pretrained(self) -> bool: ...
    @property
    def stem(self) -> str: ...


def describe_images(
    kind: str, config: BackboneSettings, dataset: ImageDataset, backbone: str
) -> ImageDescription:
    """The common part of the description of the model that a configuration trains on a data set.

    Pretrained weights fit the standard stem only, which ``auto`` then stands for.
    """
    return {
        "kind": kind,
        "backbone": backbone,
        "stem": config.stem if not (config.pretrained and config.stem == "auto") else "standard",
        "dataset": config.dataset,
        "classes": list(dataset.classes),
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


def image_shape(description: Mapping[str, Any]) -> tuple[int, ...]:
    """(channels, side, side) of the images that a network takes."""
    return (description["channels"], description["image_size"], description["image_size"])


def normaliser(description: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """The normalisation of uint8 images that a network was trained with."""
    return Normalise(description["mean"], description["std"])


def no_transform(description: Mapping[str, Any], dataset: ImageDataset) -> PerImage | None:
    """Images are read in the standard way."""
    return None


@dataclass(frozen=True, kw_only=True)
class ModelKind(Generic[M]):
    """What a plugin says of the models that it trains.

    Args:
        name: the plugin.
        build: an untrained model from its description.
        weights: the module whose state is kept.
        embedder: the network that embeds: inputs (B, ...) to embeddings (B, D). Its keywords are the plugin's own
            choices (a dimension, which of two representations).
        header: the description's ``kind``, where it is not the plugin's name.
        prefix: of the names of ``weights`` in the state of a training.
        rules: what must hold for the description's own keys.
        check: checks a whole description that was read from a file, where it is not one of a network on images.
        file: of a run directory, where its training leaves the finished model; without one, checkpoints hold it.
        input_shape: shape (...) of one input.
        pixels: of a description, what uint8 inputs become before the network takes them; None: it takes no pixels.
        transform: how files of images are read, given the description and the data set.
    """

    name: str
    build: Callable[[Mapping[str, Any]], M]
    weights: Callable[[M], nn.Module]
    embedder: Callable[..., nn.Module]
    header: str = ""
    prefix: str = ""
    rules: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    check: Check | None = None
    file: str | None = None
    input_shape: Callable[[Mapping[str, Any]], tuple[int, ...]] = image_shape
    pixels: Callable[[Mapping[str, Any]], Callable[[Tensor], Tensor] | None] = normaliser
    transform: Callable[[Mapping[str, Any], ImageDataset], PerImage | None] = no_transform

    def load(self, path: Path, device: torch.device | str = "cpu", checkpoint: Checkpoint = "last") -> M:
        """A trained model in evaluation mode, from a run directory, one of its checkpoints, or exported weights.

        Raises:
            UserError: there is nothing of the plugin at ``path``, or it is damaged.
        """
        state, description, file = read_model(
            path, self.name, checkpoint, kind=self.header or self.name, finished=self.file
        )
        if self.check is not None:
            checked = self.check(description, file)
        else:
            checked = check_description(description, file, **self.rules)
        if not is_exported(file):
            size = len(self.prefix)
            state = {key[size:]: value for key, value in state.items() if key.startswith(self.prefix)}
        model = rebuild(lambda: self.build(checked), self.weights, state, file)
        self.weights(model).to(device).eval()
        return model


@dataclass(frozen=True)
class TrainedModel(Generic[M]):
    """A trained model for use in Python, see :func:`wasskit.load`.

    ``model`` holds the plugin's own networks, ``description`` says what they are and what they were trained on.
    """

    kind: ModelKind[M]
    model: M

    @property
    def description(self) -> Mapping[str, Any]:
        return self.model.description

    def embed(self, inputs: Tensor, *, batch_size: int = 256, **choices: Any) -> Tensor:
        """Embeddings (N, D) float32 of inputs (N, ...), on the device of the model, without gradients.

        Args:
            inputs: uint8 images (N, C, H, W), which are normalised as in training; or floats, which are taken as the
                network takes them. A map of `wasskit w2gn` takes its points.
            batch_size: inputs that the network sees at once.
            choices: the options of the plugin's ``embed``: ``dim`` and ``unit`` of mrl, ``what`` of ssl.

        Raises:
            UserError: the inputs have another shape than those of the training, or there are none.
        """
        shape = tuple(self.kind.input_shape(self.description))
        if tuple(inputs.shape[1:]) != shape or not len(inputs):
            raise UserError(
                f"the model takes inputs of shape (N, {', '.join(map(str, shape))}), not {tuple(inputs.shape)}."
            )
        pixels = self.kind.pixels(self.description) if inputs.dtype == torch.uint8 else None
        if pixels is None and not inputs.is_floating_point():
            raise UserError(f"the model takes floating-point inputs (images also uint8), not {inputs.dtype}.")
        network = self.kind.embedder(self.model, **choices)
        device = next(self.kind.weights(self.model).parameters()).device
        parts = []
        with evaluating(network):
            for part in inputs.split(batch_size):
                part = part.to(device)
                parts.append(network(part.float() if pixels is None else pixels(part)).float())
        return torch.cat(parts)
