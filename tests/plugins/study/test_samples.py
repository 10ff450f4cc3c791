"""The one-sweep measures against the reference studies and the plain definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from wasskit.evaluation.uniformity import gaussian_uniformity, w2_uniformity
from wasskit.plugins.study import samples
from wasskit.plugins.study.cases import Case, Kind, collapsed, metrics, needed_ts
from wasskit.plugins.study.samples import SphereSample, draw_normals, measure_prefixes

Reference = Callable[[str], dict[str, Any]]


def spheres(study: dict[str, Any], kept: list[int], ts: list[float], dtype: torch.dtype) -> list[SphereSample]:
    """The samples of a reference study, drawn as it states."""
    generator = np.random.default_rng(int(study["seed"]))
    n = int(study["N"])
    drawn = []
    for d in kept:
        normals = generator.standard_normal((n, d))
        drawn.append(measure_prefixes(torch.from_numpy(normals).to(dtype), [d], ts)[d])
    return drawn


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_dimension_study_from_its_seed(reference: Reference, dtype: torch.dtype, tolerance: float) -> None:
    study = reference("ssl_study_dimension")
    table = study["table"]
    measured = spheres(study, [int(row[2]) for row in table], [2.0], dtype)
    for row, sphere in zip(table, measured, strict=True):
        case = Case("dimension", int(row[0]), 1 - row[1], sphere.kept, int(row[0]))
        w2, lu = metrics(case, sphere, sphere.n)
        assert -w2 == pytest.approx(row[3], abs=tolerance)
        assert -lu == pytest.approx(row[4], abs=tolerance)


@pytest.mark.slow
def test_collapse_study_from_its_seed(reference: Reference) -> None:
    study = reference("ssl_study_collapse")
    kept = [int(d) for d in study["kept"][:22].ravel()]
    measured = iter(spheres(study, kept, [2.0], torch.float64))
    for i in range(22):
        for j, m in enumerate(study["m"]):
            sphere = next(measured)
            case = Case("collapse", int(m), float(study["levels"][i]), sphere.kept, int(study["total_dim"][i, j]))
            w2, lu = metrics(case, sphere, sphere.n)
            assert -w2 == pytest.approx(study["neg_w2"][i, j], abs=1e-6)
            assert -lu == pytest.approx(study["neg_lu"][i, j], abs=1e-8)


@pytest.mark.parametrize("kind", ["fcc", "fbc", "icc"])
def test_cloning_studies_from_their_seeds(reference: Reference, kind: Kind) -> None:
    study = reference(f"ssl_study_{kind}")
    levels = [float(level) for level in np.atleast_1d(study["levels" if kind != "icc" else "level"])]
    by_level = [collapsed(kind, int(study["D"]), eta, copies=range(11)) for eta in levels]
    ts = needed_ts([case for cases in by_level for case in cases], 2.0)
    measured = spheres(study, [cases[0].kept for cases in by_level], ts, torch.float64)
    neg_w2, neg_lu = (np.atleast_2d(study[key]) for key in ("neg_w2", "neg_lu"))
    for row, (cases, sphere) in enumerate(zip(by_level, measured, strict=True)):
        for k, case in enumerate(cases):
            w2, lu = metrics(case, sphere, sphere.n)
            assert -w2 == pytest.approx(neg_w2[row, k], abs=1e-7)
            assert -lu == pytest.approx(neg_lu[row, k], abs=1e-7)


def cloned(kind: Kind, z: Tensor, m: int, k: int) -> Tensor:
    """The features of a case, built."""
    padded = torch.cat([z, z.new_zeros(len(z), m - z.shape[1])], dim=1)
    if kind == "fcc":
        return padded.repeat(1, k + 1)
    if kind == "fbc":
        return torch.cat([padded, z.new_zeros(len(z), m * k)], dim=1)
    return padded.repeat(k + 1, 1) if kind == "icc" else padded


@pytest.mark.parametrize("kind", ["collapse", "fcc", "fbc", "icc"])
def test_cases_equal_the_metrics_of_features_that_are_built(kind: Kind) -> None:
    m, n = 8, 90
    normals = draw_normals(5, n, 6).double()
    for case in collapsed(kind, m, 0.25, copies=(0, 3)):
        sphere = measure_prefixes(normals, [6], needed_ts([case], 1.5))[6]
        built = cloned(kind, normalize(normals[:, :6], dim=1), m, case.k)
        w2, lu = metrics(case, sphere, n, t=1.5)
        assert w2 == pytest.approx(float(w2_uniformity(built, normalise=False)), abs=1e-9)
        assert lu == pytest.approx(float(gaussian_uniformity(built, 1.5, normalise=False)), abs=1e-9)


@pytest.mark.parametrize("n", [2, 37, 1300])
def test_prefixes_equal_samples_of_their_own(n: int) -> None:
    normals = draw_normals(0, n, 40).double()
    measured = measure_prefixes(normals, [40, 3, 17, 1], [2.0, 4.0])
    for d, sphere in measured.items():
        z = normals[:, :d]
        w2 = math.sqrt(2 - 2 / math.sqrt(d) * sphere.root_trace)
        assert w2 == pytest.approx(float(w2_uniformity(z)), abs=1e-6)
        for t in (2.0, 4.0):
            assert sphere.lu(t) == pytest.approx(float(gaussian_uniformity(z, t)), abs=1e-9)
        assert sphere.pairs == n * (n - 1) // 2


def test_fewer_points_than_dimensions() -> None:
    normals = draw_normals(0, 20, 64).double()
    sphere = measure_prefixes(normals, [64])[64]
    assert math.sqrt(2 - 2 / 8 * sphere.root_trace) == pytest.approx(float(w2_uniformity(normals)), abs=1e-6)


@pytest.mark.parametrize(("d", "near"), [(256, None), (256, 0.7), (256, 0.1), (3, None)])
def test_powers_of_potentials_beyond_the_range_of_float32(d: int, near: float | None) -> None:
    """Of 256 dimensions every potential at t = 80 is near e^-160, but for a pair in the last tile."""
    normals = draw_normals(3, 600, d)
    if near is not None:
        normals[599] = normals[598] + near * normals[599]
    sphere = measure_prefixes(normals, [d], [2.0, 80.0])[d]
    z = normalize(normals.double())
    i, j = torch.triu_indices(600, 600, 1)
    exponents = -(z[i] - z[j]).square().sum(1)
    for t in (2.0, 80.0):
        expected = float((t * exponents).logsumexp(0)) - math.log(len(i))
        # An inner product of float32 is off by about 1e-7, 2t times which is that of the exponent.
        assert sphere.lu(t) == pytest.approx(expected, abs=2e-6 * t)


def test_tiles_cover_every_pair_once() -> None:
    for n in (100, 512, 513, 512 * 2, 512 * 4 + 1, 512 * 5 + 3):
        tiles = list(samples._tiles(n, None))
        count = math.ceil(n / 512)
        assert len(tiles) == len(set(tiles)) == count * (count + 1) // 2


def test_fewer_pairs_estimate_the_same_without_bias() -> None:
    normals = draw_normals(1, 20_000, 4)
    everything = measure_prefixes(normals, [4])[4]
    some = measure_prefixes(normals, [4], pairs=10_000_000)[4]
    assert 10_000_000 <= some.pairs < 25_000_000 < everything.pairs
    # Relative deviation of one pair's potential for d = 4: sqrt(0F1(;2;16)/0F1(;2;4)^2 - 1) = 1.04...
    first, second = (math.exp(x) for x in (samples_lu(4, 2.0), samples_lu(4, 4.0)))
    spread = math.sqrt(second / first**2 - 1)
    assert some.lu(2.0) == pytest.approx(everything.lu(2.0), abs=5 * spread / math.sqrt(some.pairs))


def samples_lu(d: int, t: float) -> float:
    from wasskit.plugins.study.laws import sphere_lu

    return sphere_lu(d, t)


def test_rounding_follows_the_intention_or_the_published_code(reference: Reference) -> None:
    study = reference("ssl_study_collapse")
    for i, eta in enumerate(study["levels"][:22]):
        for j, m in enumerate(study["m"]):
            (case,) = collapsed("collapse", int(m), float(eta), "published")
            assert (case.kept, case.total) == (study["kept"][i, j], study["total_dim"][i, j])
            (case,) = collapsed("collapse", int(m), float(eta))
            assert (case.kept, case.total) == (round(m * (1 - eta)), m)
