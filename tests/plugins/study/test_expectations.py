"""What samples are to show, against many samples and against closed forms."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from wasskit.plugins.study import expectations
from wasskit.plugins.study.cases import Case, collapsed, expected, metrics
from wasskit.plugins.study.laws import projected_normal_metrics, spectral_loss, sphere_lu

Array = NDArray[np.float64]


def sphere(generator: np.random.Generator, n: int, d: int) -> Array:
    x = generator.standard_normal((n, d))
    z: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
    return z


def w2_of(z: Array, total: int) -> float:
    n, mean = len(z), z.mean(axis=0)
    centred = z - mean
    nuclear = np.linalg.svd(centred, compute_uv=False).sum() / math.sqrt(n)
    trace = (centred**2).sum() / n
    return math.sqrt(max(0.0, mean @ mean + 1 + trace - 2 / math.sqrt(total) * nuclear))


def lu_of(z: Array, t: float = 2.0) -> float:
    n = len(z)
    return math.log((np.exp(2 * t * (z @ z.T) - 2 * t).sum() - n) / (n * (n - 1)))


def assert_law(values: list[float], mean: float, error: float, slack: float = 0.0) -> None:
    """Mean and deviation of independent values, within four standard errors of each."""
    count = len(values)
    spread = statistics.stdev(values)
    kurtosis = float(np.mean((np.array(values) - np.mean(values)) ** 4)) / spread**4
    assert abs(statistics.fmean(values) - mean) < 4 * spread / math.sqrt(count) + slack
    assert abs(spread / error - 1) < 4 * math.sqrt((kurtosis - 1) / (4 * count)) + 0.03


def test_root_of_a_gamma_variable() -> None:
    # A chi-squared variable with one degree of freedom is the square of a normal, whose |x| has the mean sqrt(2/pi).
    assert expectations.root_of_gamma(1.0, 2.0) == pytest.approx(
        (math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)), abs=1e-12
    )
    # The series and the logarithms meet.
    below, above = (expectations.root_of_gamma(1.0, 1 / shape) for shape in (0.9999e4, 1.0001e4))
    assert below == pytest.approx(above, rel=1.1e-4)
    assert expectations.root_of_gamma(2.0, 0.0) == (math.sqrt(2.0), 0.0)
    assert expectations.root_of_gamma(0.0, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize(("kept", "total", "n"), [(1, 1, 100), (1, 2, 100), (2, 2, 100), (5, 5, 200), (20, 40, 400)])
def test_w2_of_samples_of_spheres(kept: int, total: int, n: int) -> None:
    generator = np.random.default_rng(0)
    values = [w2_of(sphere(generator, n, kept), total) for _ in range(1500)]
    law = expected(Case("collapse", total, 1 - kept / total, kept, total), n, n * (n - 1) // 2)
    assert_law(values, law.w2, law.w2_error)


@pytest.mark.slow
def test_what_the_limit_leaves_out() -> None:
    """At n = 400, d = 100 the limit alone is seven standard errors off."""
    generator, n, d = np.random.default_rng(1), 400, 100
    values = [w2_of(sphere(generator, n, d), d) ** 2 for _ in range(300)]
    error = statistics.stdev(values) / math.sqrt(300)
    mean, variance = expectations.sphere_excess(d, n)
    assert abs(statistics.fmean(values) - mean) < 3 * error
    assert abs(statistics.fmean(values) - (2 - 2 * spectral_loss(d, n))) > 3 * error
    assert statistics.stdev(values) == pytest.approx(math.sqrt(variance), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "count"), [(12, 40, 1500), (32, 64, 1000), (50, 400, 300)])
def test_fewer_points_than_dimensions(n: int, d: int, count: int) -> None:
    """Taking the mean's share of the trace alone would be four to ten deviations off."""
    generator = np.random.default_rng(2)
    values = [w2_of(sphere(generator, n, d), d) ** 2 for _ in range(count)]
    spread = statistics.stdev(values)
    mean, variance = expectations.sphere_excess(d, n)
    assert abs(statistics.fmean(values) - mean) < 4 * spread / math.sqrt(count)
    assert spread == pytest.approx(math.sqrt(variance), rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "t"), [(1, 2.0), (2, 2.0), (3, 6.0), (32, 2.0)])
def test_lu_of_samples_of_spheres(d: int, t: float) -> None:
    generator, n = np.random.default_rng(3), 300
    values = [lu_of(sphere(generator, n, d), t) for _ in range(800)]
    error = expectations.sphere_lu_error(d, n * (n - 1) // 2, t)
    # The logarithm of a mean is lower by half its relative variance.
    assert_law(values, sphere_lu(d, t) - error**2 / 2, error)


@pytest.mark.parametrize("kind", ["fcc", "fbc", "icc"])
def test_clones(kind: str) -> None:
    """Errors of clones against samples in which they are built."""
    generator, n, k = np.random.default_rng(4), 60, 2
    case = Case(kind, 4, 0.5, 2, 4, k)  # type: ignore[arg-type]
    pairs = n * (n - 1) // 2
    w2, lu = [], []
    for _ in range(1500):
        z = np.pad(sphere(generator, n, 2), ((0, 0), (0, 2)))
        total = 4
        if kind == "fcc":
            z, total = np.tile(z, (1, k + 1)), 4
        elif kind == "fbc":
            total = 4 * (k + 1)
        else:
            z = np.tile(z, (k + 1, 1))
        w2.append(cloned_w2(z, total, k + 1 if kind == "fcc" else 1))
        lu.append(lu_of_any(z))
    law = expected(case, n, pairs)
    assert_law(w2, law.w2, law.w2_error, slack=2e-3)
    exact = metrics(case, Law(2), n)[1]
    assert_law(lu, exact - law.lu_error**2 / 2, law.lu_error, slack=1e-3)


def cloned_w2(z: Array, total: int, clones: int) -> float:
    """W2 to N(0, I/m), in all the coordinates of ``z``; m is that of a single clone."""
    n, mean = len(z), z.mean(axis=0)
    centred = z - mean
    nuclear = np.linalg.svd(centred, compute_uv=False).sum() / math.sqrt(n)
    trace = (centred**2).sum() / n
    return math.sqrt(max(0.0, mean @ mean + 1 + trace - 2 / math.sqrt(total * clones) * nuclear))


def lu_of_any(z: Array, t: float = 2.0) -> float:
    """L_U of points that need not be of length 1."""
    n = len(z)
    squares = (z**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * z @ z.T
    return math.log((np.exp(-t * apart).sum() - n) / (n * (n - 1)))


class Law:
    """The uniform circle, for ``metrics``."""

    def __init__(self, d: int) -> None:
        self.d = d
        self.root_trace = math.sqrt(d)

    def lu(self, t: float) -> float:
        return sphere_lu(self.d, t)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 4.0, 32.0])
def test_samples_of_projected_normals(shift: float) -> None:
    generator, n = np.random.default_rng(5), 300
    w2, lu = [], []
    for _ in range(1000):
        x = generator.standard_normal((n, 2)) + shift
        z = x / np.linalg.norm(x, axis=1, keepdims=True)
        w2.append(w2_of(z, 2))
        lu.append(lu_of(z))
    law = expectations.projected_normal_sample(shift, n, n * (n - 1) // 2)
    assert_law(w2, law.w2, law.w2_error, slack=2e-3 * law.w2)
    exact = projected_normal_metrics(shift)[1]
    assert_law(lu, exact - law.lu_error**2 / 2, law.lu_error)


def test_no_shift_is_the_uniform_circle() -> None:
    n, pairs = 1000, 10**5
    (case,) = collapsed("collapse", 2, 0.0)
    circle, law = expected(case, n, pairs), expectations.projected_normal_sample(0.0, n, pairs)
    assert law.w2 == pytest.approx(circle.w2, rel=1e-3)
    assert law.w2_error == pytest.approx(circle.w2_error, rel=3e-3)
    assert law.lu_error == pytest.approx(circle.lu_error, rel=1e-9)
    assert circle.lu_error == pytest.approx(
        math.sqrt((special.iv(0, 8.0) / special.iv(0, 4.0) ** 2 - 1) / pairs), rel=1e-12
    )


@pytest.mark.slow
def test_points_that_are_nearly_one() -> None:
    law = expectations.projected_normal_sample(1e4, 100, 4950)
    assert law.w2 == pytest.approx(math.sqrt(2), abs=1e-4)
    assert 0 < law.w2_error < 1e-4
    assert 0 < law.lu_error < 1e-6
