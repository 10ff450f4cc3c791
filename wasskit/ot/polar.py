"""The nuclear norm of a matrix and its gradient, the polar factor.

For X = U diag(s) V^T (thin), |X|_* = sum_i s_i and, where X has full rank, d|X|_* = <U V^T, dX>. At rank
deficiency the norm has a kink; among its subgradients U_r V_r^T + W (W acting on the null space, of norm at
most 1) this module takes W = 0, the shortest. So neither value nor gradient ever divides by a vanishing
singular value. What counts as vanishing is what rounding alone can make: :func:`noise_level`.

Two ways lead there, both in float64. ``"eigh"`` decomposes the smaller Gram matrix, whose eigenvalues are the
squares s_i^2, good to eps s_max^2: where some s_i are too small for that, the matrix is projected onto their
vectors, which leaves nothing to lose digits to, and decomposed by singular values; they are then good to
eps s_max. ``"polar"`` takes nothing but matrix products, and waits for no device: a composition of odd
quintics, each the best uniform approximation of 1 on the interval to which the ones before it have brought the
singular values (Amsel, Persson, Musco and Gower, "The Polar Express", 2025, section 3), and after them some that
send noise to 0. It sees no singular value below the noise of float32, even in float64 data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.ot.known_gradient import known_gradient
from wasskit.ot.precision import full_precision

__all__ = [
    "Method",
    "magnitude_and_squares",
    "magnitude_of",
    "noise_level",
    "nuclear_norm",
    "nuclear_norm_and_inverse_root",
    "nuclear_norm_and_polar_factor",
    "polar_factor",
    "polar_schedule",
    "singular_values",
    "symmetric_eigenvalues",
    "unit_roundoff",
]

Method = Literal["eigh", "polar"]

_EPS = torch.finfo(torch.float64).eps

#: Singular values down to this share of the largest are seen by ``"polar"``: a float32 unit roundoff.
_FINEST_BY_PRODUCTS = torch.finfo(torch.float32).eps / 2

#: An odd quintic with 0, sqrt(2/3) and 1 fixed, flat at 0 and at 1: what lies below sqrt(2/3) goes to 0, what lies
#: above to 1.
_PARTING = (0.0, 2.5, -1.5)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to ``dtype``: 2^-53 (float64), 2^-24, 2^-11 (half), 2^-8 (bfloat16).

    That of float32 for integers, which are taken to it.
    """
    return torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps / 2


def magnitude_of(data: Tensor) -> Tensor:
    """Length of the longest row plus that of the longest column of ``data`` (N, m), a float64 scalar."""
    return magnitude_and_squares(data)[0]


def magnitude_and_squares(data: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`magnitude_of` the data (N, m), and the sum of their squares; float64 scalars."""
    squares = data.double().square()
    rows, columns = squares.sum(dim=1), squares.sum(dim=0)
    return rows.max().sqrt() + columns.max().sqrt(), rows.sum()


def noise_level(n: int, m: int, magnitude: Tensor, largest: Tensor, roundoff: float) -> Tensor:
    """The singular value up to which those of a centred (n, m) matrix may be noise of rounding, a float64 scalar.

        (u / sqrt 3) max(s_max, magnitude),    u = max(roundoff, (n + m) eps)

    Rounding a number to ``roundoff`` errs by no more than that share of it, evenly: by 1 / sqrt 3 of it in the root
    mean square. A matrix of independent errors has a norm near that of its longest row plus that of its longest column
    (Bandeira and van Handel, "Sharp nonasymptotic bounds on the norm of random matrices", 2016), hence ``magnitude``,
    the :func:`magnitude_of` the data before their mean was taken off: rounding knows no mean, and the noise of a single
    point exceeds s_max = ``largest``. (n + m) eps is what the decompositions of this module, in float64, leave of an
    exactly null direction.

    Without a mean that is 3.4e-8 of s_max for float32 data (their noise was measured at 2.5e-8), 2.8e-4 for half
    precision, 2.3e-3 for bfloat16 and 1.3e-16 (n + m) for float64, and up to twice as much the flatter the spectrum and
    the nearer n and m; more with a mean that is long against s_max.
    """
    return torch.maximum(largest, magnitude) * (max(roundoff, (n + m) * _EPS) / math.sqrt(3))


def nuclear_norm(matrix: Tensor, *, magnitude: Tensor | None = None, method: Method = "eigh") -> Tensor:
    """Sum of the singular values of ``matrix`` (N, m), as a float64 scalar; differentiable once.

    Value and gradient as in :func:`nuclear_norm_and_polar_factor`.
    """
    return known_gradient(
        lambda x, with_polar: nuclear_norm_and_polar_factor(
            x, magnitude=magnitude, method=method, with_polar=with_polar
        ),
        matrix,
    )


@torch.no_grad()
def nuclear_norm_and_polar_factor(
    matrix: Tensor,
    *,
    magnitude: Tensor | None = None,
    method: Method = "eigh",
    ridge: float = 0.0,
    roundoff: float | None = None,
    with_polar: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Nuclear norm of ``matrix`` (N, m) as a float64 scalar and, on request, its polar factor (N, m) in the same dtype.

    Singular values up to :func:`noise_level` count as zero in both. Give as ``magnitude`` the :func:`magnitude_of` the
    data before their mean was taken off, so that a single repeated point is recognised as one, and as ``roundoff`` that
    of the data where it is coarser than that of ``matrix``. With a ``ridge`` r the min(N, m) singular values s are
    replaced by sqrt(s^2 + r), and the polar factor's by s / sqrt(s^2 + r).

    The polar way takes a ``roundoff`` below that of float32 for that of float32. It cuts less sharply: from 0.7 to
    1.45 times a level that lies up to n^(1/16) above this one the factor goes from 0 to 1. Raises ``UserError`` for
    an unknown method.
    """
    if method not in get_args(Method):
        raise UserError(f"Unknown method {method!r} for the nuclear norm: choose one of {', '.join(get_args(Method))}.")
    n, m = matrix.shape
    double = matrix.double()
    wide = double if n < m else double.mT
    magnitude = magnitude_of(double) if magnitude is None else magnitude.double()
    roundoff = unit_roundoff(matrix.dtype) if roundoff is None else roundoff
    # Autocast would turn the products into bfloat16, and with it the spectrum into noise.
    with full_precision(matrix):
        if method == "eigh":
            value, root = nuclear_norm_and_inverse_root(
                double, magnitude, ridge=ridge, roundoff=roundoff, with_inverse=with_polar
            )
            polar = None if root is None else root @ wide
        else:
            value, polar = _by_products(wide, magnitude, ridge, roundoff)
    if polar is not None:
        polar = (polar if n < m else polar.mT).to(matrix.dtype)
    return value, polar


@torch.no_grad()
def nuclear_norm_and_inverse_root(
    matrix: Tensor, magnitude: Tensor, *, ridge: float = 0.0, roundoff: float | None = None, with_inverse: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Nuclear norm of ``matrix`` X (N, m) and, on request, the inverse root of its smaller Gram matrix on its range.

    That is (X X^T + r I)^{-1/2} for N < m, else (X^T X + r I)^{-1/2}, 0 on the null space; both results float64.
    ``magnitude`` (float64), ``ridge`` r and ``roundoff`` as in :func:`nuclear_norm_and_polar_factor`.
    """
    singular, vectors = _decomposed(matrix, magnitude, roundoff, with_vectors=with_inverse)
    roots = (singular.square() + ridge).sqrt() if ridge else singular
    if vectors is None:
        return roots.sum(), None
    return roots.sum(), (vectors * torch.where(singular > 0, 1 / roots, 0)) @ vectors.mT


@torch.no_grad()
def singular_values(matrix: Tensor, magnitude: Tensor, *, roundoff: float | None = None) -> Tensor:
    """The min(N, m) singular values of ``matrix`` (N, m), descending, in float64; 0 for those that are noise.

    ``magnitude`` and ``roundoff`` as in :func:`nuclear_norm_and_polar_factor`; NaN, all of them, where an entry
    is not finite.
    """
    with full_precision(matrix):
        singular, _ = _decomposed(matrix, magnitude, roundoff, with_vectors=False)
    return singular.sort(descending=True).values


def _decomposed(
    matrix: Tensor, magnitude: Tensor, roundoff: float | None, *, with_vectors: bool
) -> tuple[Tensor, Tensor | None]:
    """Singular values (k) and vectors (k, k) of ``matrix`` (N, m) on its smaller side, k = min(N, m), in float64.

    Those that are noise are 0; NaN, all values, where an entry is not finite.
    """
    n, m = matrix.shape
    roundoff = unit_roundoff(matrix.dtype) if roundoff is None else roundoff
    wide = (matrix if n < m else matrix.mT).double()
    gram, finite = _solvable(_lower_gram(wide))
    vectors = None
    if with_vectors:
        eigenvalues, vectors = torch.linalg.eigh(gram)
    else:
        eigenvalues = torch.linalg.eigvalsh(gram)
    singular = eigenvalues.clamp_min(0).sqrt()
    level = noise_level(n, m, magnitude, singular[-1], roundoff)
    # Rounding turns the vectors of s by eps (s_max / s)^2, and so the polar factor: by half a roundoff of the data
    # here, or 2e-10. The count adds no wait of its own: the solver has waited for the device.
    least = math.sqrt(_EPS / max(2e-10, roundoff / 2))
    small = int((singular < least * singular[-1]).sum())
    if small and vectors is not None:
        singular, vectors = _resolved(wide, singular, vectors, small, level)
    elif small:
        singular = torch.linalg.svdvals(torch.linalg.qr(wide.mT, mode="r").R)
    singular = torch.where(finite, torch.where(singular > level, singular, 0.0), torch.nan)
    return singular, vectors


def _resolved(wide: Tensor, singular: Tensor, vectors: Tensor, small: int, level: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and left vectors of ``wide`` X, given those of X X^T, with the ``small`` first ones found anew.

    The vectors u of the small ones span W = U_1 up to what rounding left in the Gram matrix of the large ones, which
    U_2 U_2^T X X^T U_1 / s_2^2 takes off (U_2, s_2 the large ones). W^T X then has no singular values but theirs, with
    an error of eps s_max as X W itself. Centred data of no more rows than columns has one at least, its mean's; the
    length of its row of W^T X is all that is needed to tell it is noise.
    """
    few, many = vectors[:, :small], vectors[:, small:]
    rows = few.mT @ wide
    if not wide.is_cuda and bool(torch.linalg.matrix_norm(rows) <= level):
        return torch.cat([torch.zeros_like(singular[:small]), singular[small:]]), vectors
    few = few - many @ ((many.mT @ (wide @ rows.mT)) / singular[small:, None].square())
    rows = few.mT @ wide
    left, values, _ = torch.linalg.svd(torch.linalg.qr(rows.mT, mode="r").R.mT)
    return torch.cat([values, singular[small:]]), torch.cat([few @ left, many], dim=1)


def _by_products(wide: Tensor, magnitude: Tensor, ridge: float, roundoff: float) -> tuple[Tensor, Tensor]:
    """Nuclear norm and polar factor of ``wide`` (n, m), n <= m, float64, by products alone: see the module."""
    n, m = wide.shape
    matrix = wide
    if ridge:
        # Its singular values are sqrt(s^2 + r), and its polar factor begins with U diag(s / sqrt(s^2 + r)) V^T.
        matrix = torch.cat([wide, math.sqrt(ridge) * torch.eye(n, dtype=wide.dtype, device=wide.device)], dim=1)
    roundoff = max(roundoff, _FINEST_BY_PRODUCTS)
    gram = matrix @ matrix.mT
    schedule, parting = _cutoff_schedule(roundoff / math.sqrt(3))
    level = noise_level(n, m, magnitude, _bound(gram), roundoff)
    scale = torch.where(level > 0, parting / level, 0.0)
    polar = _composed(matrix * scale, gram * scale.square(), schedule)
    return (polar * matrix).sum(), polar[:, :m]


def _bound(gram: Tensor) -> Tensor:
    """An upper bound of the largest singular value s of X (n, m), from its Gram matrix: (sum_i s_i^16)^(1/16).

    At most n^(1/16) times as large: by a quarter for 64 of one size, by six tenths for 2048.
    """
    norm = torch.linalg.matrix_norm(gram)
    safe = torch.where(norm > 0, norm, 1.0)
    power = gram / safe
    power = power @ power
    power = power @ power
    bound: Tensor = safe.sqrt() * torch.linalg.matrix_norm(power).pow(0.125) * (norm > 0)
    return bound


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


def polar_factor(matrix: Tensor, *, smallest: float = 1e-4) -> Tensor:
    """Polar factor U V^T of ``matrix`` (n, m), n <= m, by matrix products alone, in the dtype of ``matrix``.

    Singular values above ``smallest`` times the fourth-order norm (sum_i s_i^4)^(1/4) are mapped to 1 within 1e-6;
    those below to values between 0 and 1, at most about 5 / ``smallest`` times as large: a null space remains null
    but for rounding, of which float32 leaves too much for a ``smallest`` below 1e-4.
    """
    gram = matrix @ matrix.mT
    scale = torch.linalg.matrix_norm(gram).sqrt()
    scale = scale.clamp_min(torch.finfo(scale.dtype).tiny ** 0.25)
    return _composed(matrix / scale, gram / scale.square(), polar_schedule(smallest))


def _composed(x: Tensor, gram: Tensor, schedule: tuple[tuple[float, float, float], ...]) -> Tensor:
    """The odd quintics a s + b s^3 + c s^5 of ``schedule``, one after another, of the singular values s of ``x``.

    ``gram`` is x x^T.
    """
    for step, (first, third, fifth) in enumerate(schedule):
        if step > 0:
            gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x


@lru_cache(maxsize=16)
def _cutoff_schedule(smallest: float) -> tuple[tuple[tuple[float, float, float], ...], float]:
    """Coefficients that map [0, 0.7 p] to [0, 1e-3] and [1.45 p, 1] to 1 within 1e-9, and p, below ``smallest``.

    p is where the composition for ``smallest`` reaches sqrt(2/3), from where the quintics that follow it
    part the values.
    """
    schedule = polar_schedule(smallest, tolerance=1e-2)
    low, high = 0.0, smallest
    for _ in range(60):
        x = middle = (low + high) / 2
        for a, b, c in schedule:
            x = _quintic(a, b, c, x)
        low, high = (middle, high) if x < math.sqrt(2 / 3) else (low, middle)
    return (*schedule, *(_PARTING,) * 4), low


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
        # The system below is singular in the limit, where the best quintic is the Taylor one about the centre.
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
