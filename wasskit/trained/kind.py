"""The contract of a trained model.

A plugin that trains a network declares one :class:`ModelKind`: its name, how a model is built from its description, and
the network that embeds. Loading, embedding and exporting follow from it, on the command line and in Python.

A description is a mapping of plain values that travels inside checkpoints and exported weights: nothing but the file is
needed to rebuild a model, neither the data set nor the run directory it came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.embeddings import Embeddings, Labelled, open_embeddings
from wasskit.data.loaders import EvalLoader, RowLoader
from wasskit.errors import UserError
from wasskit.evaluation.embedding import Embedder, evaluating, extract_features
from wasskit.models.catalog import SMALL_IMAGE, TINY
from wasskit.models.rebuild import check_description, rebuild
from wasskit.options import BackboneOptions
from wasskit.trained.data import images_of, open_images, with_in_memory
from wasskit.trained.files import is_exported, read_model

Checkpoint = Literal["last", "best"]


class Described(Protocol):
    """What every model has besides its networks."""

    @property
    def description(self) -> Mapping[str, Any]: ...


M = TypeVar("M", bound=Described)


class ImageDescription(TypedDict):
    """What every description of a network on images says; a plugin's own adds keys.

    ``in_memory``: whether it was trained on images in memory, which are whole, or on files, which lose a margin.
    """

    kind: str
    backbone: str
    stem: str
    dataset: str
    classes: list[str]
    image_size: int
    channels: int
    mean: list[float]
    std: list[float]
    in_memory: bool


def backbone_name(config: BackboneOptions, image_size: int, large: str) -> str:
    """The backbone that was asked for; else ``tiny`` for images up to 64 pixels and ``large`` for larger ones."""
    return config.backbone or (TINY if image_size <= SMALL_IMAGE else large)


def describe_images(kind: str, config: BackboneOptions, dataset: ImageDataset, *, large: str) -> ImageDescription:
    """The common part of the description of the model that a configuration trains on a data set.

    Pretrained weights fit the standard stem only, which ``auto`` then stands for.

    Args:
        large: the backbone of a configuration that names none, for images larger than those of ``tiny``.
    """
    return {
        "kind": kind,
        "backbone": backbone_name(config, dataset.image_size, large),
        "stem": config.stem if not (config.pretrained and config.stem == "auto") else "standard",
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "in_memory": dataset.in_memory,
    }


@dataclass(frozen=True, kw_only=True)
class ModelKind(Generic[M]):
    """What a plugin says of the models that it trains. One on images needs no more than the first four.

    Args:
        name: the plugin.
        build: an untrained model from its description.
        weights: the module whose state is kept.
        embedder: the network that embeds, or a method of it, which ONNX cannot hold: inputs (B, ...) to embeddings
            (B, D). Its keywords are the plugin's own choices (a dimension, which of two representations), those of
            ``Plugin.choices``.
        rules: what must hold for the description's own keys.
        prefix: of the names of ``weights`` in the state of a training.
        header: the description's ``kind``, where it is not the plugin's name.
        file: of a run directory, where its training leaves the finished model; without one, checkpoints hold it.
        check: checks a description that was read from a file, where it is not that of a network on images.
        input_shape: shape of one input, where it is not an image.
        trained_by: of one that takes vectors, the commands whose runs hold it.
        own_vectors: of one that takes vectors, the test and the training vectors of a run, from its options.
    """

    name: str
    build: Callable[[Mapping[str, Any]], M]
    weights: Callable[[M], nn.Module]
    embedder: Callable[..., Embedder]
    rules: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    prefix: str = ""
    header: str = ""
    file: str | None = None
    check: Callable[[Mapping[str, Any], Path], Mapping[str, Any]] | None = None
    input_shape: Callable[[Mapping[str, Any]], tuple[int, ...]] = lambda description: (
        description["channels"], description["image_size"], description["image_size"],
    )  # fmt: skip
    trained_by: tuple[str, ...] = ()
    own_vectors: Callable[[Mapping[str, Any]], tuple[Labelled, Labelled]] | None = None

    @property
    def takes_images(self) -> bool:
        """Whether its descriptions are an :class:`ImageDescription`."""
        return self.check is None

    def checked(self, rows: Embeddings, description: Mapping[str, Any]) -> Embeddings:
        """The same vectors, which a model takes. Raises ``UserError`` where it takes none, or of another width."""
        shape = self.input_shape(description)
        if len(shape) != 1:
            raise UserError(f"this model of `wasskit {self.name}` takes inputs of shape {shape}, not files of vectors.")
        if rows.shape[1:] != shape:
            raise UserError(f"{rows.where} has vectors of {rows.shape[1]} numbers; the model takes {shape[0]}.")
        return rows

    def load(self, path: Path, device: torch.device | str = "cpu", checkpoint: Checkpoint = "last") -> M:
        """A trained model in evaluation mode, from a run directory, one of its checkpoints, or exported weights.

        Raises:
            UserError: there is nothing of the plugin at ``path``, or it is damaged.
        """
        found: TrainedModel[M] = load_model((self,), path, device, checkpoint)
        return found.model

    def rebuilt(self, state: Mapping[str, Tensor], description: Mapping[str, Any], file: Path) -> M:
        """The model of weights and a description that were read from ``file``; raises as :meth:`load`."""
        if self.check is not None:
            description = dict(self.check(description, file))
        else:
            description = check_description(with_in_memory(description), file, **self.rules)
        if not is_exported(file):
            size = len(self.prefix)
            state = {key[size:]: value for key, value in state.items() if key.startswith(self.prefix)}
        return rebuild(lambda: self.build(description), self.weights, state, file)


@dataclass(frozen=True)
class TrainedModel(Generic[M]):
    """A trained model for use in Python, see :func:`wasskit.load`.

    ``model`` holds the plugin's own networks.
    """

    kind: ModelKind[M]
    model: M

    @property
    def description(self) -> Mapping[str, Any]:
        """What the networks are and what they were trained on."""
        return self.model.description

    def embed(
        self, inputs: Tensor | NDArray[Any] | str | Path, *, batch_size: int = 256, workers: int = 0, **choices: Any
    ) -> Tensor:
        """Embeddings (N, D) float32, on the device of the model, without gradients.

        Args:
            inputs: images, of any size: uint8 (N, C, H, W), or a path as that of ``embed`` on the command line. They
                are prepared as in the evaluation of the training, so that equal pixels have equal embeddings. Or floats
                (N, ...), which go into the network as they are, so that images must be normalised. A model of vectors
                takes these or a file of vectors. Arrays of numpy are taken as tensors.
            batch_size: inputs that the network sees at once.
            workers: processes that read files.
            choices: the options of the plugin's ``embed``: ``dim`` and ``unit`` of mrl, ``what`` of ssl.

        Raises:
            UserError: the inputs have another shape or type than the model takes, or there are none.
        """
        kind, description = self.kind, self.description
        network = kind.embedder(self.model, **choices)
        device = next(kind.weights(self.model).parameters()).device
        if not isinstance(inputs, str | PathLike):
            inputs = torch.as_tensor(inputs)
            pixels = kind.takes_images and inputs.dtype == torch.uint8
            if not pixels and not inputs.is_floating_point():
                raise UserError(f"the model takes floating-point inputs (images also uint8), not {inputs.dtype}.")
            shape = (description["channels"], *inputs.shape[-2:]) if pixels else kind.input_shape(description)
            if inputs.shape[1:] != shape or not len(inputs):
                wanted = ", ".join(map(str, shape))
                raise UserError(f"the model takes inputs of shape (N, {wanted}), not {tuple(inputs.shape)}.")
            if not pixels:
                with evaluating(network, getattr(network, "__self__", None)):
                    parts = inputs.split(batch_size)
                    return torch.cat([network(part.to(device, torch.float32)).float() for part in parts])
            dataset = images_of(inputs.cpu(), description)
        elif kind.takes_images:
            dataset = open_images(Path(inputs).expanduser(), description)
        else:
            return self.embed_rows(open_embeddings(Path(inputs).expanduser()), **choices)
        loader = EvalLoader(dataset, min(batch_size, len(dataset)), device=device, workers=workers)
        with contextlib.closing(loader):
            return extract_features(network, loader).features

    def embed_rows(self, rows: Embeddings, **choices: Any) -> Tensor:
        """Embeddings (N, m) float32 of vectors, which are read as they are used. Raises as :meth:`embed`."""
        network = self.kind.embedder(self.model, **choices)
        device = next(self.kind.weights(self.model).parameters()).device
        loader = RowLoader(self.kind.checked(rows, self.description), device=device)
        return extract_features(network, loader).features


def load_model(
    kinds: Sequence[ModelKind[Any]], path: Path, device: torch.device | str = "cpu", checkpoint: Checkpoint = "last"
) -> TrainedModel[Any]:
    """A trained model of whichever of a plugin's ``kinds`` it is; see :meth:`ModelKind.load`."""
    by_header = {kind.header or kind.name: kind for kind in kinds}
    state, description, file = read_model(
        path, kinds[0].name, checkpoint, kinds=by_header, finished=next((k.file for k in kinds if k.file), None)
    )
    kind = by_header[str(description["kind"])]
    model = kind.rebuilt(state, description, file)
    kind.weights(model).to(device).eval()
    return TrainedModel(kind, model)
