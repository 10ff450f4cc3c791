"""Trained adaptors as they are found on disk."""

from __future__ import annotations

from typing import get_args

from wasskit.errors import UserError
from wasskit.models.rebuild import are_counts, check_entries, is_count
from wasskit.plugins.mrl.adapt.network import AdaptorModel, PrefixAdaptor, Shape, build_adaptor
from wasskit.plugins.mrl.adapt.options import Learns
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


def prefix_adaptor(model: AdaptorModel, *, dim: int | None = None, unit: bool = False) -> PrefixAdaptor:
    """The network of the first ``dim`` coordinates (None: all). Raises ``UserError`` where it has fewer."""
    dim = model.dims[-1] if dim is None else dim
    if not 0 < dim <= model.dims[-1]:
        raise UserError(f"--dim: {dim} is larger than the adapted vectors, which have {model.dims[-1]} numbers.")
    return PrefixAdaptor(model.network, dim, unit=unit)


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
)
