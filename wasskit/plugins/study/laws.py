"""What the uniformity metrics are for the laws under study, in closed form.

Notation of Fang, Li, Sun and Wang, "Rethinking the Uniformity Metric in Self-Supervised Learning" (ICLR 2024): features
z live in R^m, are uniform on the unit sphere of the first d coordinates, and are 0 in the others (a share
eta = 1 - d/m has collapsed). Everything is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special

Array = NDArray[np.float64]


def subspace_w2(kept: int, total: int) -> float:
    """W2 of the uniform law on the sphere of ``kept`` of ``total`` coordinates: sqrt(2 - 2 sqrt(d/m)).

    mu = 0 and S = (1/d) I on the d coordinates, so |mu|^2 + 1 + tr S = 2 and tr S^{1/2} = sqrt d.
    """
    return math.sqrt(2 - 2 * math.sqrt(kept / total))


def sphere_lu(d: int, t: float = 2.0) -> float:
    """L_U = -2t + log 0F1(; d/2; t^2) of the uniform law on the unit sphere of R^d.

    |z - z'|^2 = 2 - 2 z.z', and by symmetry z' may be a pole, so E exp(2t z.z') is the moment generating function of
    one coordinate at 2t: Gamma(d/2) t^(1-d/2) I_{d/2-1}(2t) = 0F1(; d/2; t^2). Zero coordinates change nothing.
    Summed as its series, whose terms are all positive, in units that grow with it.
    """
    term, total, k, unit = 1.0, 1.0, 0, 0.0
    while term > 1e-17 * total:
        term *= t * t / ((k + 1) * (d / 2 + k))
        total += term
        k += 1
        if total > 1e200:
            term, unit, total = term / total, unit + math.log(total), 1.0
    return -2 * t + unit + math.log(total)


def cloned_instances_lu(lu: float, n: int, times: int) -> float:
    """L_U of a sample of ``n`` points taken ``times`` times over, from its own L_U: exact for any sample.

    Of the nM(nM-1)/2 pairs, M^2 stand for each pair of different points, and nM(M-1)/2 are of a point with itself,
    where the potential is 1.
    """
    apart = times**2 * math.exp(lu) * n * (n - 1) / 2
    together = n * times * (times - 1) / 2
    return math.log((apart + together) / (n * times * (n * times - 1) / 2))


def spectral_loss(d: int, n: int) -> float:
    """E tr S_n^{1/2} / sqrt d for the covariance S_n of n uniform points on the sphere of R^d: 1 only in the limit.

    The eigenvalues of d S_n spread about 1 and the square root is concave, so a finite sample looks less uniform
    than its law. As n and d grow they follow Marchenko and Pastur's law of ratio g, whose moment of order 1/2 is
    2F1(-1/2, 1/2; 2; g) = 1 - g/8 - ... (its integer moments are Narayana's polynomials 2F1(1-k, -k; 2; g)). With
    g = (d-1)/n the second order is exact at every d: E tr (d S - I)^2 / d = (d-1)/n on the sphere. The sample mean
    takes 1/n of the trace. For g > 1 the roles of points and coordinates change places: without their mean the points
    have n - 1 eigenvalues, whose second order, (n - 2 + 2/n)/d, is exact as well.
    """
    g = (d - 1) / n
    if g > 1:
        spread = special.hyp2f1(-0.5, 0.5, 2, (n - 2 + 2 / n) / d)
        return float(spread * (n - 1) / math.sqrt(n * d))
    return float(special.hyp2f1(-0.5, 0.5, 2, g) * math.sqrt(1 - 1 / n))


def nearest_neighbour_distance(m: int, n: int) -> float:
    """Median distance of a point to the nearest of n - 1 others, all uniform on the unit sphere of R^m, m >= 2.

    The others are farther than r with the chance (1 - F(r))^(n-1), F(r) the share of the sphere within r: that of the
    points whose coordinate along the point exceeds 1 - r^2/2, for which (1 + Y)/2 ~ Beta((m-1)/2, (m-1)/2).
    """
    share = -math.expm1(-math.log(2) / (n - 1))
    # By symmetry 1 - Y at the upper tail is 1 + Y at the lower, without cancellation.
    return math.sqrt(4 * special.betaincinv((m - 1) / 2, (m - 1) / 2, share))


@dataclass(frozen=True)
class SphereLaw:
    """The uniform law on the unit sphere of R^kept.

    The same figures as a measured sample has, so that every study states its metrics once for both.
    """

    kept: int

    @property
    def root_trace(self) -> float:
        """tr S^{1/2}."""
        return math.sqrt(self.kept)

    def lu(self, t: float) -> float:
        """L_U."""
        return sphere_lu(self.kept, t)


# --- A coordinate, and a pair of coordinates, of the uniform sphere against N(0, I/m) ---------------------------------


def coordinate_cdf(y: Array, m: int) -> Array:
    """P(Y <= y), Y a coordinate of the uniform law on the sphere of R^m: (1 + Y)/2 ~ Beta((m-1)/2, (m-1)/2)."""
    share: Array = special.betainc((m - 1) / 2, (m - 1) / 2, np.clip((1 + y) / 2, 0, 1))
    return share


def gaussian_cdf(y: Array, m: int) -> Array:
    """P(Y <= y) for Y ~ N(0, 1/m)."""
    share: Array = special.ndtr(y * math.sqrt(m))
    return share


def coordinate_density(y: Array, m: int) -> Array:
    """Gamma(m/2) / (sqrt pi Gamma((m-1)/2)) (1 - y^2)^((m-3)/2) on (-1, 1), else 0; unbounded there for m = 2."""
    scale = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(math.pi)
    inside = np.abs(y) < 1
    return np.where(inside, scale * np.where(inside, 1 - y * y, 1.0) ** ((m - 3) / 2), 0.0)


def gaussian_density(y: Array, m: int) -> Array:
    """Density of N(0, 1/m)."""
    return math.sqrt(m / (2 * math.pi)) * np.exp(-m * y * y / 2)


def coordinate_distances(m: int) -> tuple[float, float]:
    """Total variation and W1 between one coordinate of the uniform sphere in R^m and N(0, 1/m), m >= 2.

    TV = sup_A |P(A) - Q(A)| is read off the distribution functions where the densities cross: with u = y^2 their log
    ratio has the derivative m/2 - (m-3)/(2(1-u)), so it turns once, at u = 3/m, and they cross at most twice on (0, 1).
    W1 = int |F - G|.
    """

    def log_ratio(u: float) -> float:
        shift = math.lgamma(m / 2) - math.lgamma((m - 1) / 2) - 0.5 * math.log(m / 2)
        return shift + (m - 3) / 2 * math.log1p(-u) + m * u / 2

    knots = [0.0, *(math.sqrt(u) for u in _crossings(log_ratio, 3 / m)), 1.0, math.inf]
    points = np.array(knots)
    share = np.diff(coordinate_cdf(points, m)) - np.diff(gaussian_cdf(points, m))

    def difference(y: float) -> float:
        return abs(float(coordinate_cdf(np.array(y), m)) - float(gaussian_cdf(np.array(y), m)))

    return float(np.abs(share).sum()), 2 * _integral(difference, 1 / math.sqrt(m))


def pair_density_distances(m: int) -> tuple[float, float]:
    """The same two distances between two coordinates of the uniform sphere jointly and N(0, I/m), m >= 2.

    Both laws are invariant under rotation, so both distances are those of the radii: moving each point along its ray is
    optimal, since ||x| - |y|| <= |x - y|. P(R^2 <= u) is 1 - (1-u)^((m-2)/2) against 1 - exp(-m u / 2).
    """

    def sphere(r: float) -> float:
        if r >= 1:
            return 1.0
        return -math.expm1((m - 2) / 2 * math.log1p(-r * r)) if m > 2 else 0.0

    def gauss(r: float) -> float:
        return -math.expm1(-m * r * r / 2)

    def log_ratio(u: float) -> float:
        return math.log((m - 2) / m) + (m - 4) / 2 * math.log1p(-u) + m * u / 2

    # For m = 2 the radius is 1: all of its mass lies where the Gaussian has none.
    inner = [math.sqrt(u) for u in _crossings(log_ratio, 4 / m)] if m > 2 else []
    knots = [0.0, *inner, 1.0, math.inf]
    share = [sphere(b) - sphere(a) - gauss(b) + gauss(a) for a, b in itertools.pairwise(knots)]
    total = 1.0 if m == 2 else sum(abs(s) for s in share) / 2
    return total, _integral(lambda r: abs(sphere(r) - gauss(r)), 1 / math.sqrt(m))


def _crossings(log_ratio: Callable[[float], float], turn: float) -> list[float]:
    """Zeros in (0, 1) of a function that is monotone on either side of ``turn``."""
    edge = 1 - 1e-14
    knots = sorted({1e-300, min(max(turn, 1e-300), edge), edge})
    found = []
    for low, high in itertools.pairwise(knots):
        if log_ratio(low) * log_ratio(high) < 0:
            found.append(float(optimize.brentq(log_ratio, low, high, xtol=1e-15)))
    return found


def _integral(f: Callable[[float], float], scale: float) -> float:
    """int_0^inf of a function that varies on the given scale and has a kink at 1."""
    inside = [x * scale for x in (0.5, 1.0, 2.0, 4.0, 8.0) if x * scale < 1]
    knots = [0.0, *inside, 1.0, 1 + 4 * scale, 1 + 16 * scale]
    pieces = itertools.pairwise(knots)
    return math.fsum(integrate.quad(f, a, b, limit=200, epsabs=1e-13, epsrel=1e-11)[0] for a, b in pieces)


# --- A Gaussian that is not centred, on the circle -------------------------------------------------------------------


class ProjectedNormal(NamedTuple):
    """W2, L_U and the length of the mean of points on the circle."""

    w2: float
    lu: float
    norm: float


def projected_normal_metrics(shift: float, t: float = 2.0) -> ProjectedNormal:
    """W2, L_U and |mu| of x/|x| for x ~ N(k (1, 1), I_2), k = ``shift``.

    About the direction of the mean the angle has the density (1/2pi) e^{-s^2/2} (1 + sqrt(2 pi) u Phi(u) e^{u^2/2})
    with s = sqrt(2) k and u = s cos(theta) (Mardia and Jupp, "Directional Statistics", 2000, section 3.5.6), and the
    cosine moments a_n. Hence mu = a_1, S has the eigenvalues (1 + a_2)/2 - a_1^2 and (1 - a_2)/2, and, since exp(2t
    cos) = I_0(2t) + 2 sum_n I_n(2t) cos(n .), L_U = -2t + log(I_0(2t) + 2 sum_n I_n(2t) a_n^2).
    """
    theta, density = projected_normal_density(shift)
    orders = np.arange(80)
    moments = circle_moments(theta, density, orders)
    first = float(moments[1])
    # (1 - a_2)/2 = E sin^2 loses nothing to cancellation where the angle has collapsed.
    across = float((density * np.sin(theta) ** 2).sum())
    along = max(0.0, float((density * (np.cos(theta) - first) ** 2).sum()))
    root_trace = math.sqrt(across) + math.sqrt(along)
    w2 = math.sqrt(max(0.0, 2 - math.sqrt(2) * root_trace))
    return ProjectedNormal(w2, math.log(float((circle_potential(orders, t) * moments**2).sum())), abs(first))


def projected_normal_density(shift: float) -> tuple[Array, Array]:
    """Equally spaced angles about the direction of the mean, and their probabilities."""
    s = math.sqrt(2) * shift
    # The density is smooth and periodic with a width of 1/s: equal weights converge faster than any power.
    nodes = max(256, 16 * math.ceil(s + 1))
    theta = 2 * np.pi * np.arange(nodes) / nodes
    u = s * np.cos(theta)
    log_part = 0.5 * math.log(2 * math.pi) + special.log_ndtr(u) - (s * np.sin(theta)) ** 2 / 2
    density = math.exp(-s * s / 2) + u * np.exp(log_part)
    density /= density.sum()
    return theta, density


def circle_potential(orders: NDArray[np.int64], t: float) -> Array:
    """Coefficients of cos(n x) in exp(2t cos x - 2t), the potential of two points on the circle an angle x apart."""
    coefficients: Array = special.ive(orders, 2 * t) * np.where(orders == 0, 1.0, 2.0)
    return coefficients


def circle_moments(theta: Array, density: Array, orders: NDArray[np.int64]) -> Array:
    """a_n = E cos(n theta) for every n of ``orders``."""
    moments: Array = (density * np.cos(orders[:, None] * theta)).sum(axis=1)
    return moments
