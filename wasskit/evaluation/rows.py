"""Features as metrics take them: a matrix (N, m) of real numbers, its rows divided by their length."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.ot.precision import at_least_float32, full_precision

__all__ = [
    "all_finite",
    "inner_products",
    "is_positive_integer",
    "shape_of",
    "unit_rows",
    "unit_rows_and_lengths",
    "wide",
]

_SHORTEST = 1e-12


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite: one pass, in which NaN wins over any other."""
    return x.numel() == 0 or bool(torch.stack(x.detach().aminmax()).isfinite().all())


def is_positive_integer(value: object) -> bool:
    """Whether it is a whole number from 1 on, of Python or of numpy."""
    return isinstance(value, Integral) and int(value) >= 1


def shape_of(features: Tensor) -> tuple[int, int]:
    if features.dim() != 2 or 0 in features.shape:
        raise UserError(f"Features must be a matrix (N, m) of at least one row, got {tuple(features.shape)}.")
    return features.shape[0], features.shape[1]


def inner_products(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """``x y^T`` (N, M) of rows (N, D) and (M, D), in their dtype, whatever less is allowed: by TF32, similarities
    of 1 would be off by 1e-3, and ranks with them."""
    with full_precision(x):
        return torch.mm(x, y.mT, out=out)


def unit_rows(features: Tensor) -> Tensor:
    """Rows divided by their length. A row no longer than 1e-12 has no direction: it becomes 0, without a gradient."""
    return unit_rows_and_lengths(features)[0]


def unit_rows_and_lengths(features: Tensor) -> tuple[Tensor, Tensor]:
    """`unit_rows`, and the lengths (N, 1) that the rows were divided by: infinity for a row without a direction."""
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    length = torch.where(length > _SHORTEST, length, torch.inf)
    return features / length, length


def wide(features: Tensor) -> Tensor:
    """Half precision as float32; and on the CPU where the device knows no float64."""
    if features.is_complex():
        raise UserError(f"Features must be real numbers, got {features.dtype}.")
    if features.device.type == "mps":
        features = features.cpu()
    return at_least_float32(features)
