"""What samples of the laws under study are to show: expectations and standard errors of W2 and L_U at N points.

W2 of a sample is biased (its covariance is never the law's) and, near 0, far from normal; the scatter of a few seeds
tells its error badly. Both follow from the law itself: W2^2 has an expectation and a variance to second order in 1/N,
and is close to a gamma variable of these, which it is exactly (a chi-squared one) where a single direction matters.
L_U is the logarithm of a mean over pairs (a U-statistic) whose variance is known. Everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from wasskit.plugins.study.laws import (
    circle_moments,
    circle_potential,
    projected_normal_density,
    spectral_loss,
    sphere_lu,
)


@dataclass(frozen=True)
class Expected:
    """One sample: the expectation of W2, and the standard deviations of W2 and L_U."""

    w2: float
    w2_error: float
    lu_error: float


def root_of_gamma(mean: float, variance: float) -> tuple[float, float]:
    """Mean and standard deviation of the root of a gamma variable of the given ``mean`` and ``variance``.

    With shape k = mean^2 / variance: E sqrt Q = sqrt(variance / mean) Gamma(k + 1/2) / Gamma(k).
    """
    if mean <= 0 or variance <= 0:
        return math.sqrt(max(mean, 0.0)), 0.0
    shape = mean**2 / variance
    # 1 - E sqrt(Q) / sqrt(E Q); by Stirling's series where the two logarithms would cancel.
    if shape > 1e4:
        loss = 1 / (8 * shape)
    else:
        loss = -math.expm1(special.gammaln(shape + 0.5) - special.gammaln(shape) - 0.5 * math.log(shape))
    return math.sqrt(mean) * (1 - loss), math.sqrt(mean * loss * (2 - loss))


def sphere_excess(d: int, n: int) -> tuple[float, float]:
    """Mean and variance of 2 - 2 tr S^{1/2} / sqrt d for the covariance S (1/N) of n uniform points in R^d: W2^2.

    For n > d and E = d S - I this is |mu|^2 + tr E^2 / 4d to second order, where n d |mu|^2 is chi-squared with d
    degrees of freedom and the traceless part of E is isotropic, by symmetry, with (d-1)(d+2)/2. The mean beyond is
    Marchenko and Pastur's (``spectral_loss``), and 29/64 (d-1)/n^2 is what their limit leaves out at the next
    order: the third and fourth moments of E on the sphere, and the sample mean. For n < d the same goes for the Gram
    matrix, whose entries off the diagonal have the variance 1/d, and their mean |mu|^2; its next order is 13/64
    (n/d)^2 / sqrt(nd). Near n = d, where neither order suffices, the deviation is up to a quarter too large.
    """
    mean = 2 - 2 * spectral_loss(d, n)
    if d - 1 > n:
        return mean + 13 / 64 * (n / d) ** 2 / math.sqrt(n * d), n / (4 * d**3) + 2 / (n * d**2)
    return mean + 29 / 64 * (d - 1) / n**2, (d - 1) / (4 * n**2 * (d + 2)) + 2 / (d * n**2)


def sphere_lu_error(d: int, pairs: int, t: float = 2.0) -> float:
    """Standard deviation of L_U over ``pairs`` pairs of uniform points on the sphere of R^d.

    By symmetry the mean potential of a point does not depend on the point, so different pairs are uncorrelated,
    shared points or not, and Var mean = Var k / pairs with E k = exp L_U(t), E k^2 = exp L_U(2t); the logarithm
    to first order.
    """
    excess = sphere_lu(d, 2 * t) - 2 * sphere_lu(d, t)
    # sqrt(e^x - 1), which is representable where e^x no longer is.
    return math.exp(excess / 2) * math.sqrt(-math.expm1(-excess) / pairs)


def projected_normal_sample(shift: float, n: int, pairs: int, t: float = 2.0) -> Expected:
    """The circle's projected normal x/|x|, x ~ N(k (1, 1), I_2), k = ``shift`` (``projected_normal_metrics``).

    With u along the mean and v across, W2^2 = |mu|^2 + 1 + tr S - sqrt2 tr S^{1/2} is a function of the sample means of
    u, v, u^2, v^2 and uv; g and h are its gradient and its (diagonal) Hessian at the law, C their covariance:
    E W2^2 = W2(law)^2 + sum h C_ii / 2n, Var W2^2 = g.Cg / n + sum h_i h_j C_ij^2 / 2n^2. L_U by Hoeffding's two
    variances: that of the mean potential of a point, and the rest, over points and over pairs.
    """
    theta, density = projected_normal_density(shift)
    orders = np.arange(80)
    moments = circle_moments(theta, density, orders)
    first = float(moments[1])
    u, v = np.cos(theta) - first, np.sin(theta)
    along, across = float(density @ u**2), float(density @ v**2)
    a, b = math.sqrt(along), math.sqrt(across)
    if a * b == 0:
        return Expected(math.sqrt(2), 0.0, 0.0)
    means = np.stack([u, v, u**2, v**2, u * v])
    means -= (means @ density)[:, None]
    covariance = (means * density) @ means.T
    root2 = math.sqrt(2)
    gradient = np.array([2 * first, 0, 1 - root2 / (2 * a), 1 - root2 / (2 * b), 0])
    hessian = root2 * np.array([1 / a, 1 / b, 1 / (4 * a**3), 1 / (4 * b**3), 1 / (a * b * (a + b))])
    squared = first**2 + 1 + along + across - root2 * (a + b)
    mean = squared + float(hessian @ np.diag(covariance)) / (2 * n)
    variance = float(gradient @ covariance @ gradient) / n
    variance += float(hessian @ covariance**2 @ hessian) / (2 * n**2)
    w2, w2_error = root_of_gamma(mean, variance)

    weights = circle_potential(orders, t)
    at_point = (weights * moments) @ np.cos(orders[:, None] * theta)
    potential = float(density @ at_point)
    of_points = float(density @ (at_point - potential) ** 2)
    of_pairs = max(0.0, float((circle_potential(orders, 2 * t) * moments**2).sum()) - potential**2)
    error = math.sqrt(4 * of_points / n + max(0.0, of_pairs - 2 * of_points) / pairs) / potential
    return Expected(w2, w2_error, error)
