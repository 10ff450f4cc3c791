"""Features as metrics take them: a matrix (N, m) of real numbers, its rows divided by their length."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.errors import UserError

_SHORTEST = 1e-12

#: The square is 2^-44, or 256 times the machine epsilon of float64: what a sum of products and an eigen-solver may lose
#: in an eigenvalue, of the largest one.


def shape_of(features: Tensor) -> tuple[int, int]:
    if features.dim() != 2 or 0 in features.shape:
        raise UserError(f"Features must be a matrix (N, m) of at least one row, got {tuple(features.shape)}.")
    return features.shape[0], features.shape[1]


def unit_rows(features: Tensor) -> Tensor:
    """Rows divided by their length. A row no longer than 1e-12 has no direction: it becomes 0, without a gradient."""
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    unit: Tensor = features / torch.where(length > _SHORTEST, length, torch.inf)
    return unit


def wide(features: Tensor) -> Tensor:
    """Half precision as float32; and on the CPU where the device knows no float64."""
    if features.is_complex():
        raise UserError(f"Features must be real numbers, got {features.dtype}.")
    if features.device.type == "mps":
        features = features.cpu()
    return features if features.dtype == torch.float64 else features.float()
