"""Exact transport between two clouds of equally many points of equal weight: an assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.ot.clouds import check_clouds


@torch.no_grad()
def optimal_assignment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The partner in ``y`` of each point of ``x``, (n,) int64, and the squared distances to them, (n,) float64.

    The sum of the squared distances is the least one among all bijections, as an optimal plan of equally many points of
    equal weight may be taken as a bijection (Birkhoff, 1946). The time is of the order of n^3, the memory of n^2: a
    second or so for 2,000 points.

    Raises:
        ValueError: shapes that do not fit, clouds of different sizes, or values that are not finite.
    """
    from scipy.optimize import linear_sum_assignment

    check_clouds(x, y)
    if len(x) != len(y):
        raise ValueError(f"an assignment needs clouds of one size, not of {len(x)} and {len(y)} points")
    x, y = x.double().cpu(), y.double().cpu()
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    _, partner = linear_sum_assignment(cost.numpy())
    partners = torch.from_numpy(partner).long()
    return partners, (x - y[partners]).square().sum(1)


def assignment_wasserstein_squared(x: Tensor, y: Tensor) -> Tensor:
    """``W_2^2`` of two clouds (n, d) of equal weights: the whole squared distance, a scalar in float64.

    It takes a time of the order of n^3 and a memory of n^2.

    Raises:
        ValueError: shapes that do not fit, clouds of different sizes, or values that are not finite.

    Example:
        >>> import torch, wasskit
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> wasskit.assignment_wasserstein_squared(x, x.flip(0) + 3)
        tensor(9., dtype=torch.float64)
    """
    return optimal_assignment(x, y)[1].mean()
