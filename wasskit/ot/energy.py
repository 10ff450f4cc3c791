"""Energy distance between two samples, sliced over directions or in closed form.

For one direction the energy distance of the projected samples is the squared L2 distance of their
distribution functions (the continuous ranked probability score of one sample under the other; Szekely, 2002;
Gneiting and Raftery, 2007). Its mean over all directions is a multiple of the energy distance in R^d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wasskit.ot.known_gradient import known_gradient


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

    Example:
        >>> import torch, wasskit
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> wasskit.energy_distance(x, x + 1, unbiased=False)  # |F - G| is 1/2 from 0 to 2
        tensor(0.5000, dtype=torch.float64)
    """
    check_samples(x, y, unbiased)
    like = x.new_empty(0, dtype=torch.float64)
    if directions is None:
        directions = random_directions(count, x.shape[1], like=like, generator=generator)
    directions = directions.to(like)
    directions = directions / directions.norm(dim=1, keepdim=True)
    n, m = len(x), len(y)
    # One sample at a time: both in float64 would be the most memory that a comparison of large files takes.
    values, order = torch.cat([directions @ sample.double().T for sample in (x, y)], 1).sort(dim=1)
    from_x = (order < n).to(values.dtype)
    f = from_x.cumsum(1)[:, :-1] / n
    g = (1.0 - from_x).cumsum(1)[:, :-1] / m
    integrand = (f - g).square()
    if unbiased:
        integrand = integrand - f * (1.0 - f) / (n - 1) - g * (1.0 - g) / (m - 1)
    return (integrand * values.diff(dim=1)).sum(1).mean()


def energy_distance_limit(x: Tensor, y: Tensor, *, unbiased: bool = True, chunk: int | None = None) -> Tensor:
    """The sliced energy distance in the limit of all directions, in closed form, a scalar in float64.

    ``c_d / 2 [2 E|x - y| - E|x - x'| - E|y - y'|]`` with ``c_d = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))``,
    the mean length of the projection of a unit vector; unbiased where the means within a sample leave out its
    points' distances to themselves. Computed and differentiated (once) from blocks of ``chunk`` points by as many,
    each pair once; no more than a block is held.
    """
    check_samples(x, y, unbiased)
    n, m, dim = len(x), len(y), x.shape[1]
    size = chunk or (512 if x.device.type == "cpu" else 8192)
    parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    parts += [slice(start, min(start + size, n + m)) for start in range(n, n + m, size)]

    def weight(rows: slice, columns: slice) -> float:
        if rows.start < n <= columns.start:
            return 2.0 / (n * m)
        count = n if rows.start < n else m
        return -(1.0 if rows == columns else 2.0) / (count * (count - 1 if unbiased else count))

    def compute(points: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        wanted = [slice(0, n)] * x.requires_grad + [slice(n, n + m)] * y.requires_grad
        distances = _Distances(points, wanted if with_gradient else [])
        for place, rows in enumerate(parts):
            for columns in parts[place:]:
                distances.add(rows, columns, weight(rows, columns))
        return distances.total, distances.gradient

    projection = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    return 0.5 * projection * known_gradient(compute, torch.cat([x.double(), y.double()]))


_NEAR = 1e-5
"""Pairs whose squared distance is below this share of the largest possible are computed from their differences."""

_PAIRS = 2**15
"""Differences that are held at once."""

_FEW = 8
"""Dimensions up to which all pairs are: a product of matrices saves nothing."""


class _Distances:
    """Weighted sums of distances between blocks of points (N, d), float64, and their gradient in the ``wanted`` ones.

    In few dimensions they are computed from differences, in more from inner products of the centred points. A squared
    distance is then off by (d + 6) eps M, M twice the largest squared length, as many roundings meet: its root by
    (d + 6) eps sqrt(M / _NEAR) / 2 at most where it is not near.
    """

    def __init__(self, points: Tensor, wanted: Sequence[slice]) -> None:
        self.given, self.points = points, points - points.mean(0)
        squares, one = self.points.square().sum(1, keepdim=True), self.points.new_ones(len(points), 1)
        self.left = torch.cat([-2.0 * self.points, squares, one], 1)
        self.right = torch.cat([self.points, one, squares], 1)
        self.few = points.shape[1] <= _FEW
        self.near = 2.0 * _NEAR * float(squares.max())
        self.total = points.new_zeros(())
        self.wanted = wanted
        self.gradient = torch.zeros_like(points) if wanted else None

    def add(self, rows: slice, columns: slice, weight: float) -> None:
        """Those between the points of two blocks; of a block with itself every pair counts twice."""
        if self.few:
            first, second = self.given[rows], self.given[columns]
            distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
            has_zeros = True
        else:
            distance, has_zeros = self._by_product(rows, columns, weight)
        self.total += weight * distance.sum()
        sides = [(rows, columns)] if rows == columns else [(rows, columns), (columns, rows)]
        sides = [side for side in sides if any(part.start <= side[0].start < part.stop for part in self.wanted)]
        if self.gradient is None or not sides:
            return
        inverse = distance.reciprocal_()
        if has_zeros:
            inverse.masked_fill_(inverse == torch.inf, 0.0)
        for own, others in sides:
            toward = inverse if own == rows else inverse.T
            self.gradient[own] += (2.0 * weight if rows == columns else weight) * self._pull(toward, own, others)

    def _by_product(self, rows: slice, columns: slice, weight: float) -> tuple[Tensor, bool]:
        """The distances of a block, 0 where they are near and added alone, and whether any is 0."""
        squared = self.left[rows] @ self.right[columns].T
        if rows == columns:
            squared.fill_diagonal_(torch.inf)
        close = None if float(squared.min()) > self.near else (squared <= self.near).nonzero()
        distance = squared.sqrt_()
        if rows == columns:
            distance.fill_diagonal_(0.0)
        if close is not None:
            distance[close[:, 0], close[:, 1]] = 0.0
            self._add_close(close[:, 0] + rows.start, close[:, 1] + columns.start, weight)
        return distance, rows == columns or close is not None

    def _pull(self, inverse: Tensor, rows: slice, columns: slice) -> Tensor:
        """sum_j (x_i - y_j) / |x_i - y_j| from the inverse distances."""
        if self.few:
            pairs = zip(self.given[rows].T, self.given[columns].T, strict=True)
            return torch.stack([(a[:, None] - b).mul_(inverse).sum(1) for a, b in pairs], 1)
        sums = inverse @ self.right[columns, :-1]
        return self.points[rows] * sums[:, -1:] - sums[:, :-1]

    def _add_close(self, rows: Tensor, columns: Tensor, weight: float) -> None:
        """Those of single pairs, from the differences of their points."""
        for first, second in zip(rows.split(_PAIRS), columns.split(_PAIRS), strict=True):
            difference = self.given[first] - self.given[second]
            length = difference.norm(dim=1, keepdim=True)
            self.total += weight * length.sum()
            if self.gradient is not None:
                unit = difference * (weight / torch.where(length > 0.0, length, torch.inf))
                self.gradient.index_add_(0, first, unit).index_add_(0, second, unit, alpha=-1.0)


def check_samples(x: Tensor, y: Tensor, unbiased: bool) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"samples of shapes (n, d) and (m, d) are needed, not {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < (2 if unbiased else 1):
        which, least = ("unbiased ", "two points") if unbiased else ("", "a point")
        raise ValueError(f"the {which}energy distance needs at least {least} of each sample")
