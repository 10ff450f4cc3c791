"""Trained adaptors as they are found on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch

from wasskit.config import build, check_keys
from wasskit.data.embeddings import Labelled, read_labelled
from wasskit.errors import UserError
from wasskit.models.rebuild import are_counts, check_entries, is_count
from wasskit.plugins.mrl.adapt.network import AdaptorModel, Shape, build_adaptor
from wasskit.plugins.mrl.adapt.options import AdaptOptions, Learns
from wasskit.plugins.mrl.network import PrefixEmbedder, prefix_length
from wasskit.trained.kind import ModelKind

HEADER = "mrl-adaptor"
MOST_BLOCKS = 64

RULES = {
    "width": is_count,
    "dims": are_counts,
    "shape": lambda value: value in get_args(Shape),
    "hidden": is_count,
    "blocks": lambda value: type(value) is int and 0 <= value <= MOST_BLOCKS,
    "blend": lambda value: type(value) in (int, float) and 0 <= value <= 1,
    "learned": lambda value: value in get_args(Learns),
}
"""What a description must hold besides its ``kind``."""


def prefix_adaptor(model: AdaptorModel, *, dim: int | None = None, unit: bool = False) -> PrefixEmbedder:
    """The network of the first ``dim`` coordinates (None: all). Raises ``UserError`` where it has fewer."""
    dim = prefix_length(model.dims, dim, "the adapted vectors, which have {} numbers")
    return PrefixEmbedder(model.network.fixed(), dim, unit=unit)


def options_of(saved: Mapping[str, Any]) -> AdaptOptions:
    """The options of a run, from its configuration."""
    return build(AdaptOptions, check_keys(AdaptOptions, dict(saved), "the configuration of the run"))


def own_vectors(saved: Mapping[str, Any]) -> tuple[Labelled, Labelled]:
    """The test and the training vectors of a run. Raises ``UserError`` where it has no test vectors."""
    from wasskit.plugins.mrl.adapt.data import digits

    options = options_of(saved)
    if options.train is None:
        names, splits = tuple(map(str, range(10))), (digits("test"), digits("train"))
        test, train = (Labelled(x.rows, torch.as_tensor(x.labels), names, "digits") for x in splits)
        return test, train
    if options.test is None:
        raise UserError("the adaptor was trained without test vectors: name vectors by --vectors.")
    train, test = read_labelled((options.train, options.labels), (options.test, options.test_labels))
    return test, train


ADAPTOR = ModelKind(
    name="mrl",
    header=HEADER,
    build=build_adaptor,
    weights=lambda model: model.network,
    embedder=prefix_adaptor,
    rules=RULES,
    prefix="network.",
    check=lambda description, path: check_entries(description, path, RULES),
    input_shape=lambda description: (description["width"],),
    trained_by=("mrl adapt",),
    own_vectors=own_vectors,
)
