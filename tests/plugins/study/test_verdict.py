"""Embeddings of known collapse, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.uniform_null import uniform_spectrum
from wasskit.evaluation.uniformity import alignment, effective_rank, gaussian_uniformity, w2_uniformity
from wasskit.plugins.study.verdict import cautions, measure_embeddings, verdict

N, M = 2000, 48


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(count: int, noise: float) -> Tensor:
    which = torch.randint(count, (N,), generator=torch.Generator().manual_seed(1))
    return normal(count, M)[which] + noise * normal(N, M, seed=2)


CONSTRUCTED = {
    "uniform": (normal(N, M), ["healthy"]),
    "uniform, few rows": (normal(300, 200), ["healthy"]),
    "fewer rows than dimensions": (normal(60, 128), ["undecided"]),
    "half collapsed, but fewer rows": (torch.cat([normal(60, 64), torch.zeros(60, 64)], 1), ["undecided"]),
    "two rows": (normal(2, M), ["undecided"]),
    "slightly uneven": (normal(N, M) * 0.98 ** torch.arange(M), ["healthy"]),
    "plane": (normal(N, 2), ["healthy"]),
    "half collapsed": (torch.cat([normal(N, M // 2), torch.zeros(N, M // 2)], 1), ["dimensional collapse"]),
    "circle in many dimensions": (torch.cat([normal(N, 2), torch.zeros(N, M - 2)], 1), ["dimensional collapse"]),
    "decaying spectrum": (normal(N, M) * 0.9 ** torch.arange(M), ["dimensional collapse"]),
    "shifted": (normal(N, M) + 0.7, ["mean shift"]),
    "after a ReLU": (normal(N, M).relu(), ["mean shift"]),
    "shifted and collapsed": (
        torch.cat([normal(N, M // 4) + 1, torch.zeros(N, 3 * M // 4)], 1),
        ["mean shift", "dimensional collapse"],
    ),
    "one point": (normal(1, M).repeat(N, 1), ["complete collapse"]),
    "nearly one point": (normal(1, M) + 1e-3 * normal(N, M, seed=3), ["complete collapse"]),
    "a mean far away": (normal(N, M) + 20, ["complete collapse"]),
    "cloned four times": (normal(N // 4, M).repeat(4, 1), ["few distinct instances"]),
    "100 tight clusters": (clusters(100, 0.02), ["clusters"]),
    "10 tight clusters": (clusters(10, 0.02), ["clusters", "dimensional collapse"]),
    "10 less tight clusters": (clusters(10, 0.3), ["clusters", "mean shift", "dimensional collapse"]),
    "a point and its opposite": (
        torch.randint(2, (N, 1), generator=torch.Generator().manual_seed(5)).mul(2).sub(1)
        * (normal(1, M) + 0.05 * normal(N, M, seed=4)),
        ["clusters", "dimensional collapse"],
    ),
    "clusters of two": (normal(N // 2, M).repeat(2, 1) + 0.02 * normal(N, M, seed=6), ["clusters"]),
    "wide clusters": (clusters(100, 0.5), ["healthy"]),
    "arcs in the plane": (torch.cat([normal(N, 3), torch.zeros(N, 1)], 1), ["healthy"]),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_verdicts(name: str) -> None:
    features, expected = CONSTRUCTED[name]
    found = verdict(measure_embeddings(features))
    kinds = [finding.kind for finding in found]
    assert kinds == expected or (name == "10 tight clusters" and set(expected) <= set(kinds))
    assert all(finding.sentence.endswith((".", "W2.")) for finding in found)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_scale_of_the_embeddings_does_not_matter(scale: float) -> None:
    x, y = normal(300, 12).double(), normal(300, 12, seed=1).double()
    plain, scaled = (measure_embeddings(f * x, pairs_of=f * y) for f in (1.0, scale))
    for name in ("w2", "lu", "mean_norm", "effective_rank", "alignment", "neighbour", "distinct"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6), name
    assert scaled.norm_mean == pytest.approx(scale * plain.norm_mean)
    assert verdict(scaled) == verdict(plain)


@pytest.mark.slow
def test_clusters_are_counted_and_measured() -> None:
    measured = measure_embeddings(clusters(20, 0.05))
    assert measured.clusters == pytest.approx(20, rel=0.05)
    # Two of one cluster differ by noise of deviation 0.05 sqrt 2 per unit of the centre's deviation.
    assert measured.within == pytest.approx(0.05 * 2**0.5, rel=0.1)
    assert measured.typical == pytest.approx(2**0.5, rel=0.1)
    assert measure_embeddings(normal(N, M)).clusters is None
    sampled = measure_embeddings(normal(40, 16).repeat(200, 1) + 1e-3 * normal(8000, 16, seed=1))
    assert (sampled.n, sampled.sampled) == (8000, 4096)
    assert sampled.clusters == pytest.approx(40, rel=0.02)


@pytest.mark.slow
def test_the_nearest_neighbour_of_uniform_points_is_where_it_should_be() -> None:
    for n, m in ((4000, 2), (3000, 5), (1000, 200)):
        measured = measure_embeddings(normal(n, m))
        assert measured.neighbour == pytest.approx(measured.neighbour_expected, rel=0.1 if m == 2 else 0.02)


def test_zero_rows_have_no_alignment() -> None:
    x, y = normal(100, 8), normal(100, 8, seed=1)
    with_zeros = torch.cat([x, torch.zeros(2, 8)]), torch.cat([y, normal(2, 8, seed=2)])
    expected = float(alignment(x.double(), y.double()))
    assert measure_embeddings(with_zeros[0], pairs_of=with_zeros[1]).alignment == pytest.approx(expected)


def test_figures_are_those_of_the_evaluation() -> None:
    x, y = normal(700, 20) * 0.9 ** torch.arange(20) + 0.3, normal(700, 20, seed=9)
    measured = measure_embeddings(x, pairs_of=y, t=1.0)
    assert measured.w2 == pytest.approx(float(w2_uniformity(x.double())), abs=1e-9)
    assert measured.lu == pytest.approx(float(gaussian_uniformity(x.double(), 1.0)), abs=1e-5)
    assert measured.effective_rank == pytest.approx(float(effective_rank(x.double())), rel=1e-6)
    assert measured.alignment == pytest.approx(float(alignment(x.double(), y.double())))
    assert measured.location + measured.spread == pytest.approx(measured.w2**2)
    # Flat on the dimensions in use, the same covariance term.
    flat = 1 + measured.trace - 2 * (measured.trace * measured.used_dims / 20) ** 0.5
    assert flat == pytest.approx(measured.spread)


@pytest.mark.slow
def test_dimensions_in_use_are_those_kept() -> None:
    kept = torch.cat([normal(20_000, 10), torch.zeros(20_000, 30)], 1)
    measured = measure_embeddings(kept, pairs=1_000_000)
    assert measured.used_dims == pytest.approx(10, rel=1e-3)
    assert measured.numerical_rank == 10
    turned = kept[:2000] @ torch.linalg.qr(normal(40, 40))[0]
    for dtype in (torch.float16, torch.float32):
        assert measure_embeddings(turned.to(dtype), pairs=10_000).numerical_rank == 10
    assert "30 dimensions are empty" in verdict(measured)[0].sentence


@pytest.mark.slow
def test_ordered_rows_do_not_mislead_the_estimate_of_lu() -> None:
    # Sorted by cluster, tiles of neighbours would see clusters only.
    x = torch.cat([normal(1, 16, seed=s) + 0.1 * normal(600, 16, seed=100 + s) for s in range(10)])
    everything = measure_embeddings(x).lu
    assert measure_embeddings(x, pairs=2_000_000).lu == pytest.approx(everything, abs=0.03)


def test_zero_rows_are_left_out_and_said() -> None:
    x = torch.cat([normal(500, 8), torch.zeros(3, 8)])
    measured = measure_embeddings(x)
    assert (measured.n, measured.zeros) == (500, 3)
    assert any("3 zero vectors" in line for line in cautions(measured))
    assert any("span at most" in line for line in cautions(measure_embeddings(normal(20, 30))))


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 30)])
def test_the_least_w2_of_few_embeddings_is_that_of_a_simplex(n: int, m: int) -> None:
    """sqrt(2 - 2 sqrt(19/20)) and sqrt(2 - 2 sqrt(19/30)), far below the 0.55 and 0.73 of uniform points."""
    simplex = torch.nn.functional.pad(torch.eye(n) - 1 / n, (0, m - n))
    measured = measure_embeddings(simplex.double())
    assert measured.w2 < measured.w2_expected - 0.05
    assert f"W2 cannot fall below {measured.w2:.2f} here" in cautions(measured)[0]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(800, 40), (50, 90), (4000, 2)])
def test_uniform_spectrum_is_that_of_a_uniform_sample(shape: tuple[int, int]) -> None:
    n, m = shape
    spectrum = measure_embeddings(normal(n, m)).spectrum.numpy()
    ideal = uniform_spectrum(n, m)
    finite = np.isfinite(ideal)
    assert (np.isfinite(spectrum) == finite).all()
    assert np.abs(np.exp(spectrum[finite] / 2) - np.exp(ideal[finite] / 2)).max() < 0.03 / np.sqrt(m) + 0.15 / n**0.5


@pytest.mark.parametrize(
    ("features", "fragment"),
    [
        (torch.ones(5), "must be a matrix"),
        (torch.ones(5, 1), "m >= 2"),
        (torch.zeros(5, 4), "at least two"),
        (torch.ones(1, 4), "at least two"),
        (torch.tensor([[1.0, 2], [3, float("nan")], [0, 1]]), "1 of 3 rows hold NaN .* first is row 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(features: Tensor, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        measure_embeddings(features)
