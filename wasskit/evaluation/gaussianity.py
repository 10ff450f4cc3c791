r"""How normal the projections of features are: the Epps-Pulley statistic of SIGReg.

For projections :math:`u_1, \dots, u_N` onto one direction, with the weight :math:`w(t) = e^{-t^2/2}`,

.. math::
    T = N \int \bigl| \tfrac1N \textstyle\sum_j e^{i t u_j} - e^{-t^2/2} \bigr|^2 \, w(t) \, dt

(Epps and Pulley, 1983), and SIGReg is its mean over directions (Balestriero and LeCun, "LeJEPA", 2025). As in the
published code the integral runs over [-3, 3] by the trapezoidal rule of 17 knots on [0, 3], both sides being equal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wasskit.evaluation.rows import inner_products, shape_of
from wasskit.ot.directions import slicing_directions
from wasskit.ot.precision import at_least_float32

KNOTS = 17
LAST_KNOT = 3.0
_BLOCK = 1 << 22


def quadrature() -> tuple[list[float], list[float], list[float]]:
    """Knots t, the normal characteristic function there, and the weights of the rule times w(t)."""
    step = LAST_KNOT / (KNOTS - 1)
    knots = [step * k for k in range(KNOTS)]
    phi = [math.exp(-t * t / 2) for t in knots]
    weights = [step * (1 if k in (0, KNOTS - 1) else 2) * phi[k] for k in range(KNOTS)]
    return knots, phi, weights


def epps_pulley(projections: Tensor) -> Tensor:
    """The statistic T (K,) of each column of ``projections`` (N, K); of the columns' dtype, differentiable once.

    The waves at the knots t, 2t, ... follow one from another by a rotation, so that a column costs one sine and one
    cosine. The gradient is in closed form.
    """
    value: Tensor = _EppsPulley.apply(projections)
    return value


class _EppsPulley(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        n = len(u)
        knots, phi, weights = quadrature()
        cosine, sine = (u * knots[1]).cos(), (u * knots[1]).sin()
        real, imaginary = torch.ones_like(u), torch.zeros_like(u)
        value = u.new_zeros(u.shape[1])
        errors = []
        for k in range(1, KNOTS):  # at t = 0 both functions are 1
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
            off, odd = real.mean(0) - phi[k], imaginary.mean(0)
            errors.append(torch.stack([off, odd]))
            value += weights[k] * (off.square() + odd.square())
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(u, torch.stack(errors))
        return n * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        u, errors = ctx.saved_tensors
        knots, _, weights = quadrature()
        cosine, sine = (u * knots[1]).cos(), (u * knots[1]).sin()
        real, imaginary = torch.ones_like(u), torch.zeros_like(u)
        slope = torch.zeros_like(u)
        for k in range(1, KNOTS):
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
            off, odd = errors[k - 1]
            slope += 2 * weights[k] * knots[k] * (odd * real - off * imaginary)
        return slope * gradient


def sigreg_statistic(
    features: Tensor, *, directions: Tensor | None = None, count: int = 256, generator: torch.Generator | None = None
) -> Tensor:
    """The mean of ``epps_pulley`` over directions of features (N, m) that N(0, I) would be ideal for; a scalar.

    Unit features are ideal as N(0, I / m): multiply them by sqrt m first. Under N(0, I) its mean is ``sum_t w(t) (1 -
    e^{-t^2})`` = 0.78, whatever N and m. Products are taken in the features' dtype (float32 at least), the mean in
    float64; differentiable once. Directions are visited in blocks: the memory is that of one.

    Args:
        directions: (k, m), of unit length; by default ``count`` orthogonal ones.

    Raises:
        UserError: no matrix, or no feature.

    Example:
        >>> import torch, wasskit
        >>> gaussian = torch.randn(1000, 16)
        >>> bool(wasskit.sigreg_statistic(gaussian) < wasskit.sigreg_statistic(gaussian.sign()))
        True
    """
    shape_of(features)
    x = at_least_float32(features)
    if directions is None:
        directions = slicing_directions(count, x.shape[1], like=x.detach(), generator=generator)
    some = directions.to(x).split(max(1, _BLOCK // len(x)))
    parts = [epps_pulley(inner_products(x, part)).sum(dtype=torch.float64) for part in some]
    return (torch.stack(parts).sum() / len(directions)).to(x.dtype)
