"""Energy distance between two samples, sliced over directions or in closed form.

For one direction the energy distance of the projected samples is the squared L2 distance of their
distribution functions (the continuous ranked probability score of one sample under the other; Szekely, 2002;
Gneiting and Raftery, 2007). Its mean over all directions is a multiple of the energy distance in R^d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_directions(count: int, dim: int, *, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``count`` directions (count, dim), uniform on the unit sphere."""
    directions = torch.randn(count, dim, dtype=like.dtype, device=like.device, generator=generator)
    units: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return units


def energy_distance(
    x: Tensor,
    y: Tensor,
    directions: Tensor | None = None,
    *,
    unbiased: bool = True,
    generator: torch.Generator | None = None,
    count: int = 256,
) -> Tensor:
    """Sliced energy distance ``mean_theta int (F_theta - G_theta)^2 dt`` of samples (n, d) and (m, d), a scalar.

    ``F_theta`` and ``G_theta`` are the empirical distribution functions of the projections. The integral is
    exact: between consecutive sorted values both functions are constant. The unbiased estimator subtracts the
    mean of its excess over the population value, ``int F (1 - F) / (n - 1)`` and ``int G (1 - G) / (m - 1)``,
    and can be negative. Computed in float64; `energy_distance_limit` is the limit of many directions.

    Args:
        x: sample of the first measure.
        y: sample of the second measure.
        directions: directions (k, d), normalised here; ``count`` random ones when absent.
        unbiased: subtract the bias; needs at least two points of each.
        generator: source of the random directions.
        count: number of random directions.

    Raises:
        ValueError: the dimensions of the samples differ, or there are too few points.
    """
    check_samples(x, y, unbiased)
    x, y = x.double(), y.double()
    if directions is None:
        directions = random_directions(count, x.shape[1], like=x, generator=generator)
    directions = directions.to(x)
    directions = directions / directions.norm(dim=1, keepdim=True)
    n, m = len(x), len(y)
    values, order = (torch.cat([x, y]) @ directions.T).T.sort(dim=1)
    from_x = (order < n).to(values.dtype)
    f = from_x.cumsum(1)[:, :-1] / n
    g = (1.0 - from_x).cumsum(1)[:, :-1] / m
    integrand = (f - g).square()
    if unbiased:
        integrand = integrand - f * (1.0 - f) / (n - 1) - g * (1.0 - g) / (m - 1)
    return (integrand * values.diff(dim=1)).sum(1).mean()


def energy_distance_limit(x: Tensor, y: Tensor, *, unbiased: bool = True, chunk: int = 2048) -> Tensor:
    """The sliced energy distance in the limit of all directions, in closed form, a scalar in float64.

    ``c_d / 2 [2 E|x - y| - E|x - x'| - E|y - y'|]`` with ``c_d = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))``,
    the mean length of the projection of a unit vector; unbiased where the means within a sample leave out its
    points' distances to themselves.
    """
    check_samples(x, y, unbiased)
    x, y = x.double(), y.double()
    n, m, dim = len(x), len(y), x.shape[1]

    def mean_distance(a: Tensor, b: Tensor, pairs: int) -> Tensor:
        rows = [torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").sum() for part in a.split(chunk)]
        return torch.stack(rows).sum() / pairs

    within_x = mean_distance(x, x, n * (n - 1) if unbiased else n * n)
    within_y = mean_distance(y, y, m * (m - 1) if unbiased else m * m)
    projection = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    return 0.5 * projection * (2.0 * mean_distance(x, y, n * m) - within_x - within_y)


def check_samples(x: Tensor, y: Tensor, unbiased: bool) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"samples of shapes (n, d) and (m, d) are needed, not {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < (2 if unbiased else 1):
        raise ValueError("the unbiased energy distance needs at least two points of each sample")
