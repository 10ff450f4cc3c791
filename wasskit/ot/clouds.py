"""Weighted clouds of points: what is asked of them."""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers that are checked at a time: the check copies them.
_BLOCK = 1 << 24


def check_clouds(x: Tensor, y: Tensor) -> None:
    """Raises ``ValueError`` unless both are matrices (n, d) and (m, d) of at least one finite row, on one device."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(
            f"two clouds of shapes (n, d) and (m, d) are needed, each with a point, not {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(f"the clouds are on different devices: {x.device} and {y.device}")
    for name, cloud in (("first", x), ("second", y)):
        if not cloud.is_floating_point():
            raise ValueError(f"points are floating point numbers, but the {name} cloud holds {cloud.dtype}")
        bad = sum(int((~torch.isfinite(rows).all(1)).sum()) for rows in cloud.split(max(1, _BLOCK // cloud.shape[1])))
        if bad:
            raise ValueError(f"{bad} of {len(cloud)} points of the {name} cloud are not finite")


def normalised_weights(weights: Tensor | None, cloud: Tensor) -> Tensor:
    """Weights (n,) of a cloud (n, d) in float64, divided by their sum; equal ones where none are given.

    Raises ``ValueError`` for another shape, a negative or infinite weight, or a sum that is not positive.
    """
    if weights is None:
        return torch.full((len(cloud),), 1 / len(cloud), dtype=torch.float64, device=cloud.device)
    if weights.shape != cloud.shape[:1]:
        raise ValueError(
            f"one weight per point is needed: {len(cloud)} points, weights of shape {tuple(weights.shape)}"
        )
    wide = weights.to(cloud.device, torch.float64)
    total = wide.sum()
    if not bool(torch.isfinite(total) & (wide >= 0).all() & (total > 0)):
        raise ValueError("weights must be finite and not negative, and one of them positive")
    return wide / total
