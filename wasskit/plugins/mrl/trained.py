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
from wasskit.plugins.mrl.adapt.options import adapted_dims
from wasskit.plugins.mrl.adapt.report import read_vectors_of
from wasskit.plugins.mrl.adapt.task import adapt
from wasskit.plugins.mrl.adapt.trained import ADAPTOR, options_of
from wasskit.plugins.mrl.loss import normalise
from wasskit.plugins.mrl.network import MrlModel, PrefixEmbedder, build_model
from wasskit.plugins.mrl.options import ModelDataOptions
from wasskit.trained.data import embed_dataset, open_split
from wasskit.trained.kind import ModelKind, load_model
from wasskit.trained.vectors import FileOptions, read_features
from wasskit.training.run import RunDirectory


def prefix_embedder(model: MrlModel, *, dim: int | None = None, unit: bool = False) -> PrefixEmbedder:
    """The network of the first ``dim`` coordinates (None: all). Raises ``UserError`` where it has fewer."""
    dim = model.dims[-1] if dim is None else dim
    if not 0 < dim <= model.dims[-1]:
        raise UserError(f"--dim: {dim} is larger than the embedding, which has {model.dims[-1]} coordinates.")
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


def embedded(model: MrlModel, config: ModelDataOptions, dataset: ImageDataset, device: torch.device) -> Split:
    """A labelled split as the model embeds it, on every rank. Raises ``UserError`` if an image has no label."""
    features = embed_dataset(model.network.normalised, config, dataset, device)
    if dataset.labels is None or bool((features.labels < 0).any()):
        raise UserError(f"{dataset.name}/{dataset.split} has images without a label: choose a labelled split.")
    return Split(dataset.name, dataset.split, tuple(dataset.classes), features.features, features.labels)


@dataclass(frozen=True)
class GivenSplits:
    """Embeddings of vectors: what is measured, what votes or is searched, and prefixes to measure by default."""

    test: Split
    train: Split | None
    dims: tuple[int, ...]
    other: str


def given_splits(config: FileOptions, device: torch.device) -> GivenSplits:
    """The embeddings of a command's files or adaptor. Raises as ``read_features``."""
    given = read_features(config, device)
    test, train = (
        None
        if found is None
        else Split(given.name, split, given.classes, normalise(found.features), found.labels, things="vectors")
        for split, found in (("test", given.first), ("train", given.second))
    )
    assert test is not None
    return GivenSplits(test, train, given.dims or adapted_dims(test.embeddings.shape[1]), given.other)


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
