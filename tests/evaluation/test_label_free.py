"""RankMe, alpha-ReQ, LiDAR, SIGReg's statistic and sliced W2, and what uniform points show of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from wasskit.errors import UserError
from wasskit.evaluation import (
    alpha_req,
    gaussian_uniformity,
    lidar,
    rankme,
    sigreg_statistic,
    singular_spectrum,
    sliced_uniformity,
    w2_uniformity,
)
from wasskit.evaluation.gaussianity import epps_pulley, quadrature
from wasskit.evaluation.label_free import power_law_decay, spectral_metrics
from wasskit.evaluation.transport import gaussian_distance
from wasskit.evaluation.uniform_null import NullDistribution, lidar_null, sliced_nulls, spectral_nulls
from wasskit.evaluation.uniformity import effective_rank
from wasskit.ot import energy_distance, sliced_wasserstein_squared, slicing_directions


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_rankme_as_published() -> None:
    x = draw(60, 7) + 1
    singular = torch.linalg.svdvals(x)
    shares = singular / singular.sum() + 1e-7
    torch.testing.assert_close(rankme(x), (-(shares * shares.log()).sum()).exp())
    torch.testing.assert_close(rankme(1e30 * x.mT), rankme(x))
    torch.testing.assert_close(rankme(torch.eye(5).double()), torch.tensor(5.0).double(), rtol=1e-5, atol=0)
    assert float(rankme(torch.ones(9, 4))) == pytest.approx(1, abs=1e-4)  # 3 shares of 1e-7
    assert float(rankme(torch.zeros(9, 4))) == 0


def test_alpha_is_the_exponent_of_a_power_law() -> None:
    ranks = torch.arange(1, 101, dtype=torch.float64)
    torch.testing.assert_close(power_law_decay(7 * ranks**-1.3), torch.tensor(1.3).double())
    torch.testing.assert_close(power_law_decay(torch.ones(20).double()), torch.tensor(0.0).double())
    assert math.isnan(float(power_law_decay(torch.ones(1).double())))


def test_alpha_is_the_weighted_fit() -> None:
    """numpy's polynomial fit weighs residuals, so its weights are the roots of 1 / j."""
    x = draw(200, 80) * torch.arange(1, 81) ** -0.7
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T)))[::-1]
    ranks = np.arange(11, 51)
    slope = np.polyfit(np.log(ranks), np.log(eigenvalues[10:50]), 1, w=ranks**-0.5)[0]
    assert float(alpha_req(x)) == pytest.approx(-slope, rel=1e-9)
    torch.testing.assert_close(alpha_req(3 * x + 5), alpha_req(x))


ROTATION = torch.linalg.qr(draw(6, 6, seed=1)).Q
DIRECTIONS = slicing_directions(16, 6, like=ROTATION, generator=torch.Generator().manual_seed(2))
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "w2_uniformity": lambda x, axes: w2_uniformity(x),
    "gaussian_uniformity": lambda x, axes: gaussian_uniformity(x),
    "effective_rank": lambda x, axes: effective_rank(x),
    "singular_spectrum": lambda x, axes: singular_spectrum(x),
    "rankme": lambda x, axes: rankme(x),
    "alpha_req": lambda x, axes: alpha_req(x),
    "lidar": lambda x, axes: lidar(x.unflatten(0, (-1, 4))),
    "sigreg_statistic": lambda x, axes: sigreg_statistic(x, directions=axes),
    "sliced_uniformity": lambda x, axes: sliced_uniformity(x, directions=axes),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_rotation_changes_no_unsupervised_measure(name: str) -> None:
    """Of sliced measures the directions turn too: those along which they are taken are random."""
    x = draw(40, 6) * torch.arange(1, 7) + 1
    torch.testing.assert_close(MEASURES[name](x @ ROTATION, DIRECTIONS @ ROTATION), MEASURES[name](x, DIRECTIONS))


@pytest.mark.parametrize("name", MEASURES)
def test_rows_that_are_there_twice(name: str) -> None:
    """The law of the rows stays, and what depends on it alone. SIGReg's statistic is N times such a quantity, L_U a
    mean over pairs, N of which are now of equal points."""
    x = draw(40, 6) * torch.arange(1, 7) + 1
    once, twice = MEASURES[name](x, DIRECTIONS), MEASURES[name](x.repeat(2, 1), DIRECTIONS)
    if name == "sigreg_statistic":
        once = 2 * once
    elif name == "singular_spectrum":  # of the covariance by N - 1
        once = once + math.log(39 / 40 * 80 / 79)
    elif name == "gaussian_uniformity":
        once = ((4 * once.exp() * 40 * 39 / 2 + 40) / (40 * 79)).log()
    torch.testing.assert_close(twice, once)


def test_a_rotation_of_both_clouds_changes_no_distance() -> None:
    x, y = draw(40, 6) * torch.arange(1, 7), draw(30, 6, seed=3) + 1
    for distance in (
        lambda x, y, axes: gaussian_distance(x, y),
        lambda x, y, axes: energy_distance(x, y, axes),
        lambda x, y, axes: sliced_wasserstein_squared(x, y, directions=axes),
    ):
        torch.testing.assert_close(
            torch.as_tensor(distance(x @ ROTATION, y @ ROTATION, DIRECTIONS @ ROTATION)),
            torch.as_tensor(distance(x, y, DIRECTIONS)),
        )


def test_lidar_as_published() -> None:
    views = draw(30, 4, 5) + 2 * draw(30, 1, 5, seed=1)
    means = views.mean(1)
    within = sum((z - mu).T @ (z - mu) for z, mu in zip(views, means, strict=True)) / 90 + 1e-4 * torch.eye(5)
    between = means.T.cov()
    eigenvalues = torch.linalg.eigvals(torch.linalg.solve(within, between)).real
    shares = eigenvalues / eigenvalues.sum() + 1e-7
    torch.testing.assert_close(lidar(views), (-(shares * shares.log()).sum()).exp())


def test_lidar_sees_the_directions_that_tell_samples_apart() -> None:
    """Three of eight; what the rest adds is the noise of means of 20 views beside a spread of 100."""
    between = torch.cat([10 * draw(400, 1, 3), torch.zeros(400, 1, 5)], dim=2)
    assert float(lidar(between + draw(400, 20, 8, seed=1))) == pytest.approx(3, abs=0.1)


def test_epps_pulley_is_its_integral() -> None:
    """The recurrence of waves against the definition by complex exponentials; rounding of 17 steps in float64."""
    u = draw(30, 4)
    t, phi, weights = (torch.tensor(values, dtype=torch.float64) for values in quadrature())
    waves = torch.exp(1j * u.unsqueeze(2) * t).mean(0)
    torch.testing.assert_close(epps_pulley(u), 30 * ((waves - phi).abs().square() @ weights), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(epps_pulley, (u.requires_grad_(),))
    assert float(weights.sum()) == pytest.approx(math.sqrt(2 * math.pi) * math.erf(3 / math.sqrt(2)), abs=1e-3)


def test_sigreg_of_normal_features_has_its_expectation() -> None:
    """sum_t w(t) (1 - phi(t)^2), since each wave has the variance 1 - phi^2 over N; five standard errors of 40
    samples."""
    _, phi, weights = quadrature()
    expected = sum(w * (1 - p * p) for w, p in zip(weights, phi, strict=True))
    found = torch.stack([sigreg_statistic(draw(200, 20, seed=seed), count=20) for seed in range(40)])
    assert float(found.mean()) == pytest.approx(expected, abs=5 * float(found.std()) / 40**0.5)


def test_directions_in_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(20, 5)
    axes = slicing_directions(12, 5, like=x)
    whole = sigreg_statistic(x, directions=axes)
    monkeypatch.setattr("wasskit.evaluation.gaussianity._BLOCK", 40)
    torch.testing.assert_close(sigreg_statistic(x, directions=axes), whole)


def test_sliced_uniformity_of_one_point() -> None:
    """W2^2 to N(0, 1) of a point u is 1 + u^2, and u^2 has the mean 1 over an orthonormal base."""
    x = torch.zeros(7, 4)
    x[:, 2] = 3
    assert float(sliced_uniformity(x, count=4)) == pytest.approx(2**0.5, rel=1e-6)
    assert float(sliced_uniformity(torch.zeros(7, 4))) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(300, 16), (60, 40), (30, 50)])
def test_what_uniform_points_show(n: int, m: int) -> None:
    """The simulated means against samples of points: five standard errors of both, 2 % of the deviation from m
    besides."""
    found: dict[str, list[float]] = {"rankme": [], "alpha_req": [], "sigreg": [], "sliced_w2": []}
    for seed in range(40):
        z = normalize(draw(n, m, seed=seed))
        generator = torch.Generator().manual_seed(seed)
        spectral = spectral_metrics(z)
        found["rankme"].append(float(spectral[0]))
        found["alpha_req"].append(float(spectral[1]))
        found["sigreg"].append(float(sigreg_statistic(z * m**0.5, count=24, generator=generator)))
        found["sliced_w2"].append(float(sliced_uniformity(z, count=24, generator=generator)))
    nulls = spectral_nulls(n, m, seed=1) | sliced_nulls(n, m, count=24, seed=1)
    for name, values in found.items():
        null, spread = nulls[name], float(np.std(values, ddof=1))
        slack = 5 * (spread / 40**0.5 + null.deviation / null.draws**0.5)
        ideal = min(n, m) if name == "rankme" else null.mean if name == "alpha_req" else 0.0
        bias = 0.02 * abs(null.mean - ideal) if name == "rankme" else 0.02 * ideal
        assert abs(float(np.mean(values)) - null.mean) < slack + bias, name
        assert 0.5 < null.deviation / spread < 2, name


def test_what_lidar_shows_of_no_structure() -> None:
    found = [float(lidar(draw(50, 1, 6, seed=s) + 0.3 * draw(50, 4, 6, seed=99 + s), 0.0)) for s in range(40)]
    null = lidar_null(50, 4, 6)
    assert isinstance(null, NullDistribution)
    assert float(np.mean(found)) == pytest.approx(null.mean, abs=5 * null.deviation / 40**0.5)
    assert lidar_null(5, 2, 6) is None


def test_wrong_input() -> None:
    with pytest.raises(UserError, match=r"matrix \(N, m\)"):
        rankme(torch.zeros(3))
    with pytest.raises(UserError, match="between two ranks"):
        alpha_req(draw(9, 4), (3, 3))
    with pytest.raises(UserError, match="at least two views of two samples"):
        lidar(torch.zeros(5, 1, 3))
    with pytest.raises(UserError, match="Features must be a matrix"):
        sigreg_statistic(torch.zeros(0, 3))
