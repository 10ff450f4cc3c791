r"""What the label-free metrics show of N uniform points of the sphere in R^m: their distribution, by simulation.

No matrix of points is drawn where only its spectrum matters: it is that of a Gaussian matrix, but for the length of
its rows, whose singular values are those of a bidiagonal matrix of chi variables (Dumitriu and Edelman, 2002).
Projections on orthogonal directions are the first coordinates of the points. The number of draws follows from the
size, so that the cost is bounded: means and standard deviations are of ``NullDistribution.draws`` samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from wasskit.evaluation.gaussianity import epps_pulley
from wasskit.evaluation.label_free import entropy_rank, power_law_decay
from wasskit.ot.directions import slicing_directions
from wasskit.ot.sliced import normal_bin_means

_SPECTRA = 1 << 25
_PROJECTIONS = 1 << 27
_CUBES = 10**10


@dataclass(frozen=True)
class NullDistribution:
    """Mean and standard deviation of a metric over ``draws`` uniform samples of the same size."""

    mean: float
    deviation: float
    draws: int


def _null(values: list[float]) -> NullDistribution:
    return NullDistribution(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


def _draws(cost: int, budget: int) -> int:
    return int(min(max(budget // max(cost, 1), 4), 64))


def laguerre_eigenvalues(n: int, m: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Eigenvalues above 0, descending, of G^T G for a standard Gaussian G (n, m): min(n, m) of them.

    G is bidiagonal in suitable orthonormal bases, with chi variables of n, n-1, ... degrees of freedom on the
    diagonal and of m-1, m-2, ... beside it; for n < m its transpose.
    """
    tall, wide = max(n, m), min(n, m)
    diagonal = np.sqrt(generator.chisquare(tall - np.arange(wide)))
    beside = np.sqrt(generator.chisquare(wide - 1 - np.arange(wide - 1))) if wide > 1 else np.zeros(0)
    squares = diagonal**2
    squares[1:] += beside**2
    found: NDArray[np.float64] = eigvalsh_tridiagonal(squares, diagonal[:-1] * beside) if wide > 1 else squares
    return np.maximum(found[::-1], 0.0)


def _sphere_eigenvalues(n: int, m: int, generator: np.random.Generator) -> Tensor:
    """Those of n points of the sphere, up to a factor. Rows of one length make the traceless part of the second
    moments vary less than normal rows do, by r / (r + 2) for r = min(n, m); to second order all else is equal.
    """
    rank = min(n, m)
    return torch.from_numpy(laguerre_eigenvalues(n, m, generator) ** math.sqrt(rank / (rank + 2)))


def spectral_nulls(
    n: int, m: int, *, ranks: tuple[int, int] | None = None, seed: int = 0
) -> dict[str, NullDistribution]:
    """``rankme`` and ``alpha_req`` of n uniform points in R^m."""
    generator = np.random.default_rng(seed)
    ranked, decays = [], []
    for _ in range(_draws(min(n, m) ** 2, _SPECTRA)):
        ranked.append(float(entropy_rank(_sphere_eigenvalues(n, m, generator).sqrt())))
        # The sample mean takes one degree of freedom.
        centred = _sphere_eigenvalues(max(n - 1, 1), m, generator)
        decays.append(float(power_law_decay(centred, ranks)))
    return {"rankme": _null(ranked), "alpha_req": _null(decays)}


def sliced_nulls(n: int, m: int, *, count: int = 256, seed: int = 0) -> dict[str, NullDistribution]:
    """``sigreg_statistic`` of sqrt m times, and ``sliced_uniformity`` of, n uniform points
    along ``count`` directions."""
    generator = torch.Generator().manual_seed(seed)
    ideal = normal_bin_means(n, torch.zeros(()))
    within = float((1 - ideal.square().mean()).clamp_min(0))
    tests, distances = [], []
    for _ in range(_draws(n * count, _PROJECTIONS)):
        test = gaps = 0.0
        for projections in _uniform_projections(n, m, count, generator):
            test += float(epps_pulley(projections).sum(dtype=torch.float64))
            ordered = projections.mT.sort(1).values
            gaps += float((ordered - ideal).square().mean(1).sum())
        tests.append(test / count)
        distances.append(math.sqrt(gaps / count + within))
    return {"sigreg": _null(tests), "sliced_w2": _null(distances)}


def _uniform_projections(n: int, m: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """sqrt m times the projections (n, k) of n uniform points, block by block, ``count`` in all.

    Every ``m`` directions of ``slicing_directions`` are an orthonormal base, the first of which are coordinates.
    """
    if count <= m:
        points = torch.randn(n, count, generator=generator)
        squares = points.square().sum(1, keepdim=True)
        if m > count:
            rest = torch._standard_gamma(torch.full((n, 1), (m - count) / 2), generator=generator)
            squares = squares + 2 * rest
        return [points * (m / squares).sqrt()]
    points = torch.nn.functional.normalize(torch.randn(n, m, generator=generator)) * m**0.5
    directions = slicing_directions(count, m, like=points, generator=generator)
    return [points @ some.mT for some in directions.split(256)]


def lidar_null(n: int, q: int, m: int, *, seed: int = 0) -> NullDistribution | None:
    """``lidar`` (without a ridge) of n samples whose means and whose q views are spread over all directions alike.

    The eigenvalues are those of W(n - 1) W(n (q - 1))^{-1} for two Wishart matrices, drawn by their Cholesky factors
    (Bartlett, 1933), whatever the spread of the views. None where n (q - 1) < m: views that do not span the space say
    nothing but the ridge.
    """
    if n * (q - 1) < m:
        return None
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(_draws(m**3, _CUBES)):
        between, within = (_bartlett(freedom, m, generator) for freedom in (n - 1, n * (q - 1)))
        ratio = torch.linalg.solve_triangular(within, between, upper=False)
        found.append(float(entropy_rank(torch.linalg.svdvals(ratio).square()[: min(n - 1, m)])))
    return _null(found)


def _bartlett(freedom: int, m: int, generator: np.random.Generator) -> Tensor:
    """A factor L (m, min(m, freedom)), lower triangular, of a Wishart matrix L L^T of so many degrees of freedom."""
    wide = min(m, freedom)
    factor = np.tril(generator.standard_normal((m, wide)), -1)
    factor[np.arange(wide), np.arange(wide)] = np.sqrt(generator.chisquare(freedom - np.arange(wide)))
    return torch.from_numpy(factor)


def uniform_spectrum(n: int, m: int) -> NDArray[np.float64]:
    """Log eigenvalues, descending, of the covariance of n uniform points on the sphere of R^m: quantiles of the
    limit law.

    Marchenko and Pastur's law of ratio g = m/n: m times an eigenvalue x has the density
    sqrt((b - x)(x - a)) / (2 pi g x) between a, b = (1 -+ sqrt g)^2; with n <= m, m - n + 1 are zero (-inf).
    """
    g = m / n
    low, high = (1 - math.sqrt(g)) ** 2, (1 + math.sqrt(g)) ** 2
    # With x = (a + b)/2 - cos(theta) (b - a)/2 the density has no singular end.
    theta = np.linspace(0, math.pi, 20_001)
    half = (high - low) / 2
    x = (high + low) / 2 - half * np.cos(theta)
    weight = (half * np.sin(theta)) ** 2 / np.maximum(x, 1e-300)
    share = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    present = min(m, n - 1)
    quantiles = np.interp((np.arange(present) + 0.5) / present, share / share[-1], x)
    spectrum = np.full(m, -np.inf)
    spectrum[:present] = np.log(np.maximum(quantiles[::-1], 1e-300) / m)
    return spectrum
