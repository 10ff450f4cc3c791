"""Closed forms against reference numbers, one another, quadrature and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from wasskit.plugins.study import expectations, laws
from wasskit.plugins.study.density import gaussian_coordinates, sphere_coordinates

Reference = Callable[[str], dict[str, Any]]


def test_collapsed_spheres_against_the_reference(reference: Reference) -> None:
    study = reference("ssl_study_collapse")
    for i in range(22):  # the last level leaves nothing
        for j in range(3):
            kept, total = int(study["kept"][i, j]), int(study["total_dim"][i, j])
            assert -laws.subspace_w2(kept, total) == pytest.approx(study["exact_neg_w2"][i, j], abs=1e-12)
            assert -laws.sphere_lu(kept) == pytest.approx(study["exact_neg_lu"][i, j], abs=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0, 22.0])
@pytest.mark.parametrize("d", [2, 3, 10, 1000])
def test_sphere_lu_is_the_integral_over_a_coordinate(d: int, t: float) -> None:
    # y = cos(angle) removes the singular ends of d = 2.
    scale = math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi)
    value, _ = integrate.quad(
        lambda a: scale * math.sin(a) ** (d - 2) * math.exp(2 * t * math.cos(a)), 0, math.pi, limit=200
    )
    assert laws.sphere_lu(d, t) == pytest.approx(math.log(value) - 2 * t, abs=1e-8)


@pytest.mark.parametrize("t", [300.0, 404.0, 4040.0])
@pytest.mark.parametrize("d", [2, 3, 10, 64])
def test_sphere_lu_at_the_largest_t_of_cloned_features(d: int, t: float) -> None:
    """0F1(; d/2; t^2) = Gamma(d/2) t^(1-d/2) I_{d/2-1}(2t), beyond float64 here: by the scaled Bessel function."""
    expected = math.lgamma(d / 2) + (1 - d / 2) * math.log(t) + math.log(special.ive(d / 2 - 1, 2 * t))
    assert laws.sphere_lu(d, t) == pytest.approx(expected, abs=1e-9)
    assert 0 < expectations.sphere_lu_error(d, 10**8, t) < math.inf


def test_two_points_and_the_circle_by_hand() -> None:
    # S^0 is {-1, 1}: half of all pairs are 2 apart. On the circle 0F1(;1;t^2) = I_0(2t).
    assert laws.sphere_lu(1) == pytest.approx(math.log((1 + math.exp(-8)) / 2))
    assert laws.sphere_lu(2, 3.0) == pytest.approx(-6 + math.log(special.iv(0, 6.0)))


def test_spectral_loss_in_its_limits() -> None:
    # Square case: int sqrt(x) sqrt(x (4 - x)) / (2 pi x) dx = 8 / (3 pi).
    n = 10**6
    assert laws.spectral_loss(n, n) == pytest.approx(8 / (3 * math.pi), rel=1e-5)
    assert laws.spectral_loss(1, n) == pytest.approx(1, abs=1e-6)
    # Continuous where points and coordinates change places.
    assert laws.spectral_loss(n + 1000, n) == pytest.approx(laws.spectral_loss(n - 1000, n), rel=2e-3)


def test_expected_w2_against_the_reference_samples_and_the_paper(reference: Reference) -> None:
    def expected(kept: Any, total: Any, n: int) -> float:
        return -math.sqrt(2 - 2 * math.sqrt(kept / total) * laws.spectral_loss(kept, n))

    study = reference("ssl_study_collapse")
    difference = [
        study["neg_w2"][i, j] - expected(study["kept"][i, j], study["total_dim"][i, j], 1500)
        for i in range(22)
        for j in range(3)
    ]
    assert np.abs(difference).max() < 1e-3
    # The paper's own tables: the bias of N = 50,000, to the rounding of their fourth decimal.
    table = reference("ssl_study_dimension")["published_neg_w2"]
    for row, share in zip(table, (0.25, 0.5, 0.75), strict=False):
        for m, value in zip(2 ** np.arange(2, 13), row, strict=True):
            assert value == pytest.approx(expected(round(m * share), m, 50_000), abs=1e-4)


@pytest.mark.parametrize(
    ("study", "n", "other", "kept"),
    [
        ("fcc", 1_000, 50_000, 8),
        ("fcc", 1_000, 50_000, 16),
        ("fbc", 1_000, 50_000, 16),
        ("collapse", 50_000, 20_000, 0),
    ],
)
def test_bias_tells_the_sizes_behind_the_published_figures(
    reference: Reference, study: str, n: int, other: int, kept: int
) -> None:
    published = reference(f"ssl_study_{study}")["published_neg_w2"]
    if study == "collapse":
        value, kept, m = published[0, 2], 1000, 1000
    else:
        value, m = published[{8: 0, 16: 1}[kept], 0], 32

    def gap(size: int) -> float:
        expected = math.sqrt(2 - 2 * math.sqrt(kept / m) * laws.spectral_loss(kept, size))
        return abs(float(value) + expected)

    assert gap(n) < 2e-4 < gap(other) / 3


def test_cloned_instances_against_the_reference(reference: Reference) -> None:
    study = reference("ssl_study_icc")
    first = -float(study["neg_lu"][0])
    for k, value in zip(study["times"], study["neg_lu"], strict=True):
        assert -laws.cloned_instances_lu(first, int(study["N"]), int(k) + 1) == pytest.approx(value, abs=1e-9)


def test_nearest_neighbour_by_hand() -> None:
    # On the circle the share within r is 2 arcsin(r/2) / pi, on the ordinary sphere r^2 / 4.
    share = 1 - 2 ** (-1 / 99)
    assert laws.nearest_neighbour_distance(2, 100) == pytest.approx(2 * math.sin(math.pi * share / 2))
    assert laws.nearest_neighbour_distance(3, 100) == pytest.approx(2 * math.sqrt(share))
    assert laws.nearest_neighbour_distance(3, 2) == pytest.approx(math.sqrt(2))
    assert laws.nearest_neighbour_distance(3, 10**9) == pytest.approx(2 * math.sqrt(math.log(2) / 1e9), rel=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4, 9, 64])
def test_coordinate_distances_against_quadrature(m: int) -> None:
    tv, w1 = laws.coordinate_distances(m)
    edges = np.concatenate([[-20], np.linspace(-1, 1, 400_001), [20]])
    p, q = laws.coordinate_cdf(edges, m), laws.gaussian_cdf(edges, m)
    assert tv == pytest.approx(np.abs(np.diff(p) - np.diff(q)).sum() / 2, abs=1e-5)
    y = np.linspace(-6, 6, 600_001)
    gap = np.abs(laws.coordinate_cdf(y, m) - laws.gaussian_cdf(y, m))
    assert w1 == pytest.approx(integrate.trapezoid(gap, y), abs=1e-7)


def test_a_coordinate_of_the_ordinary_sphere_is_uniform() -> None:
    y = np.array([-1.0, -0.3, 0.0, 0.8, 1.0])
    assert np.allclose(laws.coordinate_cdf(y, 3), (1 + y) / 2)
    assert np.allclose(laws.coordinate_density(y[1:-1], 3), 0.5)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 32])
def test_joint_distances_against_simulated_radii(m: int) -> None:
    tv, w1 = laws.pair_density_distances(m)
    generator = np.random.default_rng(m)
    n = 200_000
    a = np.sort(np.linalg.norm(sphere_coordinates(generator, n, m, 2), axis=1))
    b = np.sort(np.linalg.norm(gaussian_coordinates(generator, n, m, 2), axis=1))
    assert w1 == pytest.approx(np.abs(a - b).mean(), abs=3e-3)
    bins = np.linspace(0, max(a[-1], b[-1]), 60)
    binned = np.abs(np.histogram(a, bins)[0] - np.histogram(b, bins)[0]).sum() / (2 * n)
    assert tv == pytest.approx(binned, abs=0.02 if m > 2 else 0.07)


def test_distances_fall_like_one_over_m() -> None:
    tv = [laws.coordinate_distances(m)[0] for m in (128, 256, 512)]
    assert tv[0] / tv[1] == pytest.approx(2, abs=0.03)
    assert tv[1] / tv[2] == pytest.approx(2, abs=0.015)


def test_coordinates_of_the_sphere_have_its_law() -> None:
    values = sphere_coordinates(np.random.default_rng(0), 20_000, 7, 2)
    assert stats.kstest(values[:, 1], lambda y: laws.coordinate_cdf(y, 7)).pvalue > 1e-3
    assert np.linalg.norm(values, axis=1).max() < 1
    on_circle = sphere_coordinates(np.random.default_rng(0), 100, 2, 2)
    assert np.allclose(np.linalg.norm(on_circle, axis=1), 1)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 32.0])
def test_projected_normal_against_simulation(shift: float) -> None:
    w2, lu, norm = laws.projected_normal_metrics(shift)
    n = 400_000
    x = np.random.default_rng(3).standard_normal((n, 2)) + shift
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    mean = z.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T, bias=True))
    sampled = math.sqrt(mean @ mean + 1 + eigenvalues.sum() - math.sqrt(2) * np.sqrt(eigenvalues.clip(0)).sum())
    assert norm == pytest.approx(np.linalg.norm(mean), abs=5e-3)
    assert w2 == pytest.approx(sampled, abs=5e-3)
    potential = np.exp(-2 * np.square(z[::2] - z[1::2]).sum(axis=1))
    assert lu == pytest.approx(
        math.log(potential.mean()), abs=6 * potential.std() / potential.mean() / math.sqrt(n / 2) + 1e-6
    )


@pytest.mark.slow
def test_projected_normal_in_its_limits() -> None:
    w2, lu, norm = laws.projected_normal_metrics(0.0)
    assert (w2, norm) == pytest.approx((0, 0), abs=1e-7)
    assert lu == pytest.approx(laws.sphere_lu(2), abs=1e-12)
    w2, lu, norm = laws.projected_normal_metrics(1e4)
    assert (w2, lu, norm) == pytest.approx((math.sqrt(2), 0, 1), abs=1e-4)
