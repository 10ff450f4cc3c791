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
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wasskit.errors import UserError
from wasskit.ot.precision import full_precision

__all__ = [
    "Method",
    "noise_level",
    "nuclear_norm",
    "nuclear_norm_and_inverse_root",
    "nuclear_norm_and_polar_factor",
    "polar_factor",
    "polar_schedule",
    "symmetric_eigenvalues",
]

Method = Literal["eigh", "polar"]

_EPS = torch.finfo(torch.float32).eps


def noise_level(n: int, m: int, magnitude: Tensor, largest: Tensor) -> Tensor:
    """The singular value below which those of a float32 (n, m) matrix are rounding noise.

    max(n, m) * eps * s_max, as in LAPACK, but with n taken as 1024 at most: with more rows noise and signal
    grow alike, as sqrt(n). And never below eps * ``magnitude``, the Frobenius norm of the data before its
    mean was taken off.
    """
    return torch.maximum(largest * (max(min(n, 1024), m) * _EPS), magnitude * _EPS)


def nuclear_norm(matrix: Tensor, *, magnitude: Tensor | None = None, method: Method = "eigh") -> Tensor:
    """Sum of the singular values of ``matrix`` (N, m), as a float64 scalar; differentiable once.

    Value and gradient as in :func:`nuclear_norm_and_polar_factor`.
    """
    result: Tensor = _NuclearNorm.apply(matrix, magnitude, method)
    return result


class _NuclearNorm(Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, magnitude: Tensor | None, method: Method) -> Tensor:
        value, polar = nuclear_norm_and_polar_factor(
            matrix, magnitude=magnitude, method=method, with_polar=ctx.needs_input_grad[0]
        )
        if polar is not None:
            ctx.save_for_backward(polar)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (polar,) = ctx.saved_tensors
        return gradient.to(polar) * polar, None, None


@torch.no_grad()
def nuclear_norm_and_polar_factor(
    matrix: Tensor, *, magnitude: Tensor | None = None, method: Method = "eigh", with_polar: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Nuclear norm of ``matrix`` (N, m) as a float64 scalar and, on request, its polar factor (N, m) in the same
    dtype.

    Singular values below :func:`noise_level` count as zero in both. Give as ``magnitude`` the Frobenius norm of the
    data before its mean was taken off, so that a single repeated point is recognised as one. Half precision is taken
    to float32 first. Raises ``UserError`` for an unknown method.
    """
    if method not in get_args(Method):
        raise UserError(
            f"Unknown method {method!r} for the nuclear norm: choose one of {', '.join(get_args(Method))}."
        )
    n, m = matrix.shape
    wide = matrix if n < m else matrix.mT
    magnitude = torch.linalg.matrix_norm(matrix.double()) if magnitude is None else magnitude.double()
    # Autocast would turn the products into bfloat16, and with it the spectrum into noise.
    with full_precision(matrix):
        if method == "eigh":
            value, inverse_root = nuclear_norm_and_inverse_root(matrix, magnitude, with_inverse=with_polar)
            polar = None if inverse_root is None else inverse_root.to(matrix.dtype) @ wide
        else:
            polar = polar_factor(wide.float(), floor=_EPS * magnitude).to(matrix.dtype)
            value = (polar * wide).sum(dtype=torch.float64)
    if polar is not None and wide is not matrix:
        polar = polar.mT
    return value, polar


@torch.no_grad()
def nuclear_norm_and_inverse_root(
    matrix: Tensor, magnitude: Tensor, *, with_inverse: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Nuclear norm of ``matrix`` X (N, m) and, on request, the inverse root of its smaller Gram matrix on its range.

    That is (X X^T)^{-1/2} for N < m, else (X^T X)^{-1/2}; both results float64, found by eigenvalues in float64.
    ``magnitude`` (float64) as in :func:`nuclear_norm_and_polar_factor`.
    """
    n, m = matrix.shape
    gram = _lower_gram((matrix if n < m else matrix.mT).double())
    gram, finite = _solvable(gram)
    if with_inverse:
        eigenvalues, vectors = torch.linalg.eigh(gram)
    else:
        eigenvalues = torch.linalg.eigvalsh(gram)
    singular = eigenvalues.clamp_min(0).sqrt()
    kept = singular > noise_level(n, m, magnitude, singular[-1])
    value = torch.where(finite, torch.where(kept, singular, 0).sum(), torch.nan)
    if not with_inverse:
        return value, None
    return value, (vectors * torch.where(kept, 1 / singular, 0)) @ vectors.mT


def _lower_gram(wide: Tensor, block: int = 128) -> Tensor:
    """Lower triangle of X X^T for X (n, m), n <= m; the eigen-solvers read no more. Above the diagonal blocks: 0.

    On the CPU, where products of a block's size already run at full speed, that is little over half the work.
    """
    if wide.device.type != "cpu":
        return wide @ wide.mT
    n = wide.shape[0]
    gram = wide.new_zeros(n, n)
    for start in range(0, n, block):
        stop = start + block
        torch.mm(wide[start:stop], wide[:stop].mT, out=gram[start:stop, :stop])
    return gram


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues, ascending, of a symmetric matrix (m, m); NaN, all of them, where an entry is not finite."""
    solvable, finite = _solvable(matrix)
    return torch.where(finite, torch.linalg.eigvalsh(solvable), torch.nan)


def _solvable(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix, zero where an entry is not finite, and whether all are: one pass over it, and no wait for a device.

    The solvers answer NaN by an error on one rank; a NaN in the value reaches every rank and names the step.
    """
    finite = torch.isfinite(matrix.sum(dtype=torch.float64))
    return torch.where(finite, matrix, 0.0), finite


def polar_factor(matrix: Tensor, *, smallest: float = 1e-4, floor: Tensor | None = None) -> Tensor:
    """Polar factor U V^T of ``matrix`` (n, m), n <= m, by matrix products alone, in the dtype of ``matrix``.

    Singular values above ``smallest`` times the fourth-order norm (sum_i s_i^4)^(1/4) are mapped to 1 within 1e-6;
    those below to values between 0 and 1, at most about 5 / ``smallest`` times as large: a null space remains null
    but for rounding. ``floor`` bounds the normaliser from below: a matrix smaller than it is taken for rounding noise
    and mapped to nearly 0.
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
def polar_schedule(
    smallest: float, tolerance: float = 1e-6, cushion: float = 0.02
) -> tuple[tuple[float, float, float], ...]:
    """Coefficients (a, b, c) of the quintics a x + b x^3 + c x^5 whose composition maps [smallest, 1] to 1 +-
    tolerance.

    Without ``cushion`` each is optimal on the interval [l, u] left by those before it, hence so is their composition
    among all of as many odd quintics (Amsel et al. 2025, theorem 3.1). In finite precision the steepest of these
    polynomials amplify rounding errors; as the paper advises, each is therefore fitted to [max(l, cushion u), u], and
    scaled so that 1 stays in the middle of its values on [l, u]: a tenth of the error for the same number of steps.
    """
    if not 0 < smallest < 1:
        raise ValueError(f"the smallest singular value must lie in (0, 1), got {smallest}")
    lower, upper = smallest, 1.0
    coefficients = []
    while 1 - lower > tolerance:
        a, b, c = _best_quintic(max(lower, cushion * upper), upper)
        # Its values on [l, u] lie between those at the ends of [l, u], in the middle of which 1 shall be.
        scale = 2 / (_quintic(a, b, c, lower) + _quintic(a, b, c, upper)) if lower < cushion * upper else 1.0
        a, b, c = a * scale, b * scale, c * scale
        coefficients.append((a, b, c))
        lower = _quintic(a, b, c, lower)
        upper = 2 - lower
    return tuple(coefficients)


def _quintic(a: float, b: float, c: float, x: float) -> float:
    return a * x + b * x**3 + c * x**5


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
