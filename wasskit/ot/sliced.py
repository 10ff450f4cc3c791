r"""Sliced Wasserstein-2 distances: the mean, over directions, of exact distances of one-dimensional clouds.

.. math:: SW_2^2(\alpha, \beta) = \int_{S^{d-1}} W_2^2(\theta_\# \alpha, \theta_\# \beta) \, d\theta

(Bonneel, Rabin, Peyre and Pfister, 2015). In one dimension :math:`W_2^2 = \int_0^1 (F^{-1}(u) - G^{-1}(u))^2 du`; the
quantile functions of weighted clouds are constant between the n + m cumulative weights: the integral is a finite sum.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wasskit.ot.clouds import check_clouds, normalised_weights
from wasskit.ot.directions import Kind, slicing_directions

#: Entries of the projections that are in memory at a time.
_BLOCK = 1 << 22


def sliced_wasserstein_squared(
    x: Tensor,
    y: Tensor,
    *,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    directions: Tensor | None = None,
    count: int = 256,
    kind: Kind = "orthogonal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """``SW_2^2`` of two weighted clouds (n, d) and (m, d): the whole squared distance, a scalar of the clouds' dtype.

    Exact in each direction, whatever the numbers of points and the weights. Computed in float64; differentiable once in
    the points. The gradient is ``2 mean_theta sum_j pi_ij <x_i - y_j, theta> theta`` with the monotone plan pi; where
    projections tie, one of the subgradients.

    Args:
        x_weights: (n,), not negative, of any positive sum; by default equal. ``y_weights`` (m,) likewise.
        directions: (k, d), normalised here; by default ``count`` of ``slicing_directions``, of that ``kind``.

    Raises:
        ValueError: shapes or weights that do not fit, or values that are not finite.

    Example:
        >>> import torch, wasskit
        >>> x = torch.randn(100, 1)
        >>> wasskit.sliced_wasserstein_squared(x, x + 2).round(decimals=4)
        tensor(4.)
    """
    check_clouds(x, y)
    a, b = normalised_weights(x_weights, x).detach(), normalised_weights(y_weights, y).detach()
    units = _units(directions, x, count, kind, generator)
    value: Tensor = _Sliced.apply(x, y, a, b, units)
    return value


def sliced_gaussian_wasserstein_squared(
    x: Tensor,
    *,
    scale: float = 1.0,
    directions: Tensor | None = None,
    count: int = 256,
    kind: Kind = "orthogonal",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""``SW_2^2`` between a cloud (n, d) of equal weights and N(0, scale^2 I), exact in each direction.

    The i-th of the sorted projections serves the quantiles from (i-1)/n to i/n, of normal mean :math:`b_i = n
    (\varphi(q_{i-1}) - \varphi(q_i))`, :math:`q_i = \Phi^{-1}(i/n)`; with :math:`s` the scale, :math:`W_2^2 = \frac1n
    \sum_i (x_{(i)} - s b_i)^2 + s^2 (1 - \frac1n \sum_i b_i^2)`. Differentiable once; float64 inside.

    Raises ``ValueError`` as :func:`sliced_wasserstein_squared` does, and for a negative scale.

    Example:
        >>> import torch, wasskit
        >>> origin = torch.zeros(1, 4)
        >>> wasskit.sliced_gaussian_wasserstein_squared(origin, scale=3.0)  # E (3 g)^2
        tensor(9.)
    """
    check_clouds(x, x)
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale must be zero or positive, not {scale}")
    value: Tensor = _SlicedGaussian.apply(x, scale, _units(directions, x, count, kind, generator))
    return value


def normal_bin_means(n: int, like: Tensor) -> Tensor:
    """Means b (n,) of the standard normal between its quantiles of (i-1)/n and i/n, float64."""
    edges = torch.arange(n + 1, dtype=torch.float64, device=like.device) / n
    density = torch.exp(-torch.special.ndtri(edges).square() / 2) / math.sqrt(2 * math.pi)
    means: Tensor = n * (density[:-1] - density[1:])
    return means


def _units(directions: Tensor | None, x: Tensor, count: int, kind: Kind, generator: torch.Generator | None) -> Tensor:
    """Unit directions (k, d) in float64."""
    like = x.new_empty(0, dtype=torch.float64)
    if directions is None:
        return slicing_directions(count, x.shape[1], like=like, kind=kind, generator=generator)
    if directions.ndim != 2 or directions.shape[1] != x.shape[1] or len(directions) == 0:
        raise ValueError(
            f"directions must be a matrix (k, {x.shape[1]}) of at least one, not {tuple(directions.shape)}"
        )
    given = directions.detach().to(like)
    lengths = given.norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("a direction is a finite vector that is not zero")
    units: Tensor = given / lengths
    return units


def _quantiles(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masses (..., n + m) of the pieces on which both quantile functions are constant, and each one's place in a, b.

    ``a`` (..., n) and ``b`` (..., m) are weights in the order of the sorted values.
    """
    ends_a, ends_b = a.cumsum(-1), b.cumsum(-1)
    ends = torch.cat([ends_a, ends_b], -1).clamp_max_(1.0).sort(-1).values
    masses = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    middle = ends - masses / 2
    places = (torch.searchsorted(side, middle).clamp_max_(side.shape[-1] - 1) for side in (ends_a, ends_b))
    return masses, *places  # type: ignore[return-value]


class _Sliced(Function):
    """Value, and gradients in the points in the same sweep over blocks of directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
        wide_x, wide_y = x.double(), y.double()
        needs = ctx.needs_input_grad[:2]
        gradients = [
            torch.zeros_like(wide) if need else None for wide, need in zip((wide_x, wide_y), needs, strict=True)
        ]
        total = wide_x.new_zeros(())
        equal = bool((a == a[0]).all()) and bool((b == b[0]).all())
        # Equal weights are the same in any order: one partition serves all directions.
        shared = _quantiles(a, b) if equal else None
        for some in directions.split(max(1, _BLOCK // (len(x) + len(y)))):
            (u, order_x), (v, order_y) = ((some @ wide.mT).sort(1) for wide in (wide_x, wide_y))
            masses, in_x, in_y = shared if shared is not None else _quantiles(a[order_x], b[order_y])
            in_x, in_y = in_x.expand(len(some), -1), in_y.expand(len(some), -1)
            gap = u.gather(1, in_x) - v.gather(1, in_y)
            total += (masses * gap.square()).sum()
            for gradient, order, place, sign in zip(gradients, (order_x, order_y), (in_x, in_y), (1, -1), strict=True):
                if gradient is not None:
                    slopes = torch.zeros(order.shape, dtype=gap.dtype, device=gap.device)
                    slopes.scatter_add_(1, order.gather(1, place), sign * masses * gap)
                    gradient.addmm_(slopes.mT, some, alpha=2 / len(directions))
        ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))
        ctx.needs, ctx.dtypes = needs, (x.dtype, y.dtype)
        return (total / len(directions)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        found = [
            (gradient.double() * next(saved)).to(dtype) if need else None
            for need, dtype in zip(ctx.needs, ctx.dtypes, strict=True)
        ]
        return found[0], found[1], None, None, None


class _SlicedGaussian(Function):
    """Value and gradient against the normal law."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, directions: Tensor) -> Tensor:
        wide = x.double()
        n = len(wide)
        ideal = scale * normal_bin_means(n, wide)
        gradient = torch.zeros_like(wide) if ctx.needs_input_grad[0] else None
        total = wide.new_zeros(())
        for some in directions.split(max(1, _BLOCK // n)):
            values, order = (some @ wide.mT).sort(1)
            gap = values - ideal
            total += gap.square().sum() / n
            if gradient is not None:
                slopes = torch.empty_like(gap).scatter_(1, order, gap)
                gradient.addmm_(slopes.mT, some, alpha=2 / (n * len(directions)))
        if gradient is not None:
            ctx.save_for_backward(gradient)
        # What lies within the bins; its two terms nearly cancel for many points, not below rounding: it is about 1/n.
        within = scale**2 - ideal.square().mean()
        return (total / len(directions) + within.clamp_min(0)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (own,) = ctx.saved_tensors
        return (gradient.double() * own).to(gradient.dtype), None, None
