"""The nuclear norm of a matrix and its gradient, the polar factor.

For X = U diag(s) V^T (thin), |X|_* = sum_i s_i and, where X has full rank, d|X|_* = <U V^T, dX>. At rank
deficiency the norm has a kink; among its subgradients U_r V_r^T + W (W acting on the null space, of norm at
most 1) this module takes W = 0, the shortest. So neither value nor gradient ever divides by a vanishing
singular value.

Two ways lead there. ``"eigh"`` decomposes the smaller Gram matrix in float64: the square root of an
eigenvalue is then good to 1e-8 of the largest singular value, finer than the float32 rounding of the features
themselves. ``"polar"`` needs nothing but float32 matrix products, which suit a GPU: a composition of odd
quintics, each the best uniform approximation of 1 on the interval to which the ones before it have brought
the singular values (Amsel, Persson, Musco and Gower, "The Polar Express", 2025, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wasskit.errors import UserError
from wasskit.ot.precision import full_precision

__all__ = ["Method", "noise_level", "nuclear_norm", "polar_factor", "polar_schedule"]

Method = Literal["eigh", "polar"]

_EPS = torch.finfo(torch.float32).eps


def noise_level(n: int, m: int, magnitude: Tensor, largest: Tensor) -> Tensor:
    """The singular value below which those of a float32 (n, m) matrix are rounding noise: never divide by
    one.

    max(n, m) * eps * s_max, as in LAPACK, but with n taken as 1024 at most: with more rows noise and signal
    grow alike, as sqrt(n). And never below eps * ``magnitude``, the Frobenius norm of the data before its
    mean was taken off.
    """
    return torch.maximum(largest * (max(min(n, 1024), m) * _EPS), magnitude * _EPS)


def nuclear_norm(matrix: Tensor, *, magnitude: Tensor | None = None, method: Method = "eigh") -> Tensor:
    """Sum of the singular values of ``matrix`` (N, m), as a float64 scalar; differentiable once.

    Singular values that are float32 rounding noise count as zero in value and gradient: those below max(N, m)
    * eps * s_max, and those below eps * ``magnitude``. Give as ``magnitude`` the Frobenius norm of the data
    before its mean was taken off, so that a single repeated point is recognised as one.
    """
    if method not in get_args(Method):
        raise UserError(
            f"Unknown method {method!r} for the nuclear norm: choose one of {', '.join(get_args(Method))}."
        )
    if magnitude is None:
        magnitude = torch.linalg.matrix_norm(matrix.detach())
    result: Tensor = _NuclearNorm.apply(matrix, magnitude.double(), method)
    return result


class _NuclearNorm(Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, magnitude: Tensor, method: Method) -> Tensor:
        ctx.input_dtype = matrix.dtype
        wide = matrix.mT if matrix.shape[0] >= matrix.shape[1] else matrix
        # Autocast would turn the products into bfloat16, and with it the spectrum into noise.
        with full_precision(matrix):
            if method == "eigh":
                n, m = matrix.shape
                noise = partial(noise_level, n, m, magnitude)
                value, polar = _by_eigenvalues(wide.double(), noise, ctx.needs_input_grad[0])
            else:
                polar = polar_factor(wide.float(), floor=_EPS * magnitude)
                value = (polar * wide).sum(dtype=torch.float64)
        if polar is not None:
            ctx.save_for_backward(polar if wide is matrix else polar.mT)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (polar,) = ctx.saved_tensors
        return (gradient * polar).to(ctx.input_dtype), None, None


def _by_eigenvalues(
    wide: Tensor, noise: Callable[[Tensor], Tensor], with_polar: bool
) -> tuple[Tensor, Tensor | None]:
    """Nuclear norm and (on request) polar factor of a float64 (n, m), n <= m, from the n x n Gram matrix."""
    gram = wide @ wide.mT
    if with_polar:
        eigenvalues, vectors = torch.linalg.eigh(gram)
    else:
        eigenvalues = torch.linalg.eigvalsh(gram)
    singular = eigenvalues.clamp_min(0).sqrt()
    kept = singular > noise(singular[-1])
    value = torch.where(kept, singular, 0).sum()
    if not with_polar:
        return value, None
    inverse = torch.where(kept, 1 / singular, 0)
    return value, (vectors * inverse) @ vectors.mT @ wide


def polar_factor(matrix: Tensor, *, smallest: float = 1e-4, floor: Tensor | None = None) -> Tensor:
    """Polar factor U V^T of ``matrix`` (n, m), n <= m, by matrix products alone, in the dtype of ``matrix``.

    Singular values above ``smallest`` times the fourth-order norm (sum_i s_i^4)^(1/4) are mapped to 1 within
    1e-6; those below stay between 0 and 1, so a null space remains null. ``floor`` bounds the normaliser from
    below: a matrix smaller than it is taken for rounding noise and mapped to nearly 0.
    """
    gram = matrix @ matrix.mT
    norm = torch.linalg.matrix_norm(gram)
    scale = norm.sqrt()
    if floor is not None:
        scale = torch.maximum(scale, floor.to(scale.dtype))
    scale = scale.clamp_min(torch.finfo(scale.dtype).tiny ** 0.25)
    x: Tensor = matrix / scale
    gram = gram / scale.square()
    for step, (first, third, fifth) in enumerate(polar_schedule(smallest)):
        if step > 0:
            gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x


@lru_cache(maxsize=16)
def polar_schedule(smallest: float, tolerance: float = 1e-6) -> tuple[tuple[float, float, float], ...]:
    """Coefficients (a, b, c) of the quintics a x + b x^3 + c x^5 whose composition maps [smallest, 1] to 1 +-
    tolerance.

    Each is optimal on the interval left by those before it, hence so is their composition among all of as
    many odd quintics (Amsel et al. 2025, theorem 3.1).
    """
    if not 0 < smallest < 1:
        raise ValueError(f"the smallest singular value must lie in (0, 1), got {smallest}")
    lower, upper = smallest, 1.0
    coefficients = []
    while 1 - lower > tolerance:
        a, b, c = _best_quintic(lower, upper)
        coefficients.append((a, b, c))
        # The error equioscillates: its minimum on the interval is at the lower end, its maximum mirrors it
        # about 1.
        lower = a * lower + b * lower**3 + c * lower**5
        upper = 2 - lower
    return tuple(coefficients)


def _best_quintic(lower: float, upper: float) -> tuple[float, float, float]:
    """The odd quintic nearest to 1 on [lower, upper] in the uniform norm, by Remez's exchange algorithm."""
    if upper - lower < 1e-5 * upper:
        # The system below is singular in the limit, where the best quintic is the Taylor one about the
        # centre.
        centre = (upper + lower) / 2
        return 15 / 8 / centre, -10 / 8 / centre**3, 3 / 8 / centre**5
    inner = [(3 * lower + upper) / 4, (lower + 3 * upper) / 4]
    error = math.inf
    for _ in range(100):
        nodes = np.array([lower, *inner, upper])
        system = np.stack([nodes, nodes**3, nodes**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        a, b, c, new_error = np.linalg.solve(system, np.ones(4)).tolist()
        if abs(new_error - error) <= 1e-14:
            break
        error = new_error
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
    return a, b, c
