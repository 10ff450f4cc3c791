"""Trained models as they are found on disk, and data prepared for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wasskit.config import build
from wasskit.data.base import ImageDataset
from wasskit.distributed.group import group
from wasskit.errors import UserError
from wasskit.models.rebuild import are_counts, is_flag
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.adapt.options import adapted_dims
from wasskit.plugins.mrl.adapt.report import read_vectors_of
from wasskit.plugins.mrl.adapt.task import adapt
from wasskit.plugins.mrl.adapt.trained import ADAPTOR, options_of
from wasskit.plugins.mrl.loss import normalise
from wasskit.plugins.mrl.network import MrlModel, PrefixEmbedder, build_model, prefix_length
from wasskit.plugins.mrl.options import ModelDataOptions, ModelOrFileOptions
from wasskit.trained.data import embed_dataset, open_split
from wasskit.trained.kind import ModelKind, load_model
from wasskit.trained.vectors import read_features
from wasskit.training.run import RunDirectory


def prefix_embedder(model: MrlModel, *, dim: int | None = None, unit: bool = False) -> PrefixEmbedder:
    """The network of the first ``dim`` coordinates (None: all). Raises ``UserError`` where it has fewer."""
    dim = prefix_length(model.dims, dim, "the embedding, which has {} coordinates")
    return PrefixEmbedder(model.network, dim, unit=unit)


KIND = ModelKind(
    name="mrl",
    build=build_model,
    weights=lambda model: nn.ModuleDict({"network": model.network, "objective": model.objective}),
    embedder=prefix_embedder,
    rules={"dims": are_counts, "tied": is_flag, "embedding": lambda value: value in ("linear", "identity")},
)


KINDS = (KIND, ADAPTOR)


@dataclass(frozen=True)
class Split:
    """Normalised embeddings (N, D) of a split of a data set, and labels (N,), numbers of its classes.

    ``things``: what is embedded, as reports name it.
    """

    dataset: str
    name: str
    classes: tuple[str, ...]
    embeddings: Tensor
    labels: Tensor
    things: str = "images"

    def __len__(self) -> int:
        return len(self.labels)


def embedded(model: MrlModel, config: ModelOrFileOptions, dataset: ImageDataset, device: torch.device) -> Split:
    """A split as the model embeds it, on every rank. Raises ``UserError`` if an image lacks a label that is needed."""
    features = embed_dataset(model.network.normalised, config, dataset, device)
    if config.labels_needed and bool((features.labels < 0).any()):
        raise UserError(f"{dataset.name}/{dataset.split} has images without a label: choose a labelled split.")
    return Split(dataset.name, dataset.split, tuple(dataset.classes), features.features, features.labels)


@dataclass(frozen=True)
class GivenSplits:
    """What a command measures.

    Args:
        test: what is measured; ``train``: what votes or is searched, where there is such.
        dims: the prefixes to measure.
        other: what ``train`` is, as sentences name it.
        model: that has embedded images, with its classifiers; None: the embeddings are those of vectors.
    """

    test: Split
    train: Split | None
    dims: tuple[int, ...]
    other: str = ""
    model: MrlModel | None = None


def given_splits(
    config: ModelOrFileOptions,
    device: torch.device,
    second: str | None = "train",
    *,
    dims: tuple[int, ...] | None = None,
) -> GivenSplits:
    """Splits of a data set as the model of a command embeds them, or the vectors of its files or adaptor.

    Args:
        second: the split that votes or is searched, of a model on images; None: there is none.
        dims: the prefixes that were asked for; None: the trained ones.

    Raises:
        UserError: ``dims`` do not fit the embeddings; as ``read_features`` or ``embedded``.
    """
    if config.of_vectors:
        given = read_features(config, device)
        test, *others = (
            Split(given.name, name, given.classes, normalise(found.features), found.labels, things="vectors")
            for name, found in (("test", given.first), ("train", given.second))
            if found is not None
        )
        dims = _checked(dims, given.dims or adapted_dims(test.embeddings.shape[1]))
        return GivenSplits(test, others[0] if others else None, dims, given.other)
    model = KIND.load(config.trained.model, device, config.trained.checkpoint)
    dims = _checked(dims, model.dims)
    opened = [open_split(model, config, name) for name in (config.split, second) if name is not None]
    test, *others = (embedded(model, config, dataset, device) for dataset in opened)
    return GivenSplits(test, others[0] if others else None, dims, model=model)


def _checked(dims: tuple[int, ...] | None, trained: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return check_dims(trained if dims is None else dims, trained[-1])
    except ValueError as error:
        raise UserError(f"--dims: {error}.") from None


def test_embeddings(run: Path, device: str) -> Tensor:
    """Normalised embeddings (N, m) float32 of the test images, at the largest dimension; of an adaptor those of its
    test vectors, or without any of those that it was trained on.

    Raises ``UserError`` where the model or its data set is missing.
    """
    config = build(ModelDataOptions, {"model": run, "device": device})
    with group(device) as place:
        found = load_model(KINDS, run, place)
        if found.kind is ADAPTOR:
            train, test_vectors = read_vectors_of(options_of(RunDirectory.find(run, plugin="mrl")[0].options))
            return adapt(found.model.network, (test_vectors or train).rows, place)
        test = open_split(found.model, config, config.split)
        return embed_dataset(found.model.network.normalised, config, test, place).features.cpu()
