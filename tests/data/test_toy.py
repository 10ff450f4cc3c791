"""Measures: moments, purity of draws, Sobol points, reference centres, files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wasskit.data.catalog import MEASURES
from wasskit.data.toy import (
    SCRAMBLED_ANEW_UP_TO,
    Whitening,
    cloud,
    gaussian,
    gaussian_mixture,
    grid_centers,
    load_points,
    measure,
    modes,
    normal,
    ring_centers,
    sobol_points,
    swiss_roll,
)
from wasskit.errors import UserError

Reference = Callable[[str], dict[str, Any]]


def same_set(a: torch.Tensor, b: Any) -> bool:
    distances = torch.cdist(a, torch.as_tensor(b))
    return (
        len(a) == len(b)
        and bool((distances.min(0).values < 1e-12).all())
        and bool((distances.min(1).values < 1e-12).all())
    )


def test_reference_centres_and_whitening(reference: Reference) -> None:
    arrays = reference("w2gn_samplers")
    assert same_set(ring_centers(8), arrays["centers_8"])
    assert same_set(ring_centers(8, central=True), arrays["centers_9"])
    assert same_set(grid_centers(5), arrays["centers_25"])
    assert same_set(grid_centers(10), arrays["centers_100"])
    std, radius, grid_std, step, noise, divisor = (float(v) for v in arrays["defaults"])
    assert modes("8gaussians") is not None
    assert measure("8gaussians").draw(50_000, 0).norm(dim=1).mean() == pytest.approx(radius, rel=0.01)
    centers, spread = modes("25gaussians") or (torch.zeros(0), 0.0)
    assert spread == grid_std == std
    assert float(torch.pdist(centers).min()) == pytest.approx(step)
    roll = swiss_roll(0.0)
    assert float(roll.draw(1000, 0).norm(dim=1).max()) < 4.5 * np.pi / divisor
    assert float((swiss_roll().draw(4000, 0) - roll.draw(4000, 0)).std()) == pytest.approx(noise / divisor, rel=0.05)

    x = torch.as_tensor(arrays["x"])
    whitening = Whitening(x)
    torch.testing.assert_close(whitening.mean, torch.as_tensor(arrays["mean"]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whitening.multiplier, torch.as_tensor(arrays["multiplier"]), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(whitening(x), torch.as_tensor(arrays["scaled"]), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(whitening.undo(whitening(x)), torch.as_tensor(arrays["restored"]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scheme", ["random", "sobol"])
def test_draws_are_pure_and_follow_the_measure(scheme: Any) -> None:
    law = gaussian(torch.tensor([[2.0, 0.0], [1.0, 0.5]]), torch.tensor([1.0, -1.0]))
    first = law.draw(4096, 3, "source", 7, scheme=scheme)
    assert torch.equal(first, law.draw(4096, 3, "source", 7, scheme=scheme))
    assert not torch.equal(first, law.draw(4096, 3, "source", 8, scheme=scheme))
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first.mean(0), torch.tensor([1.0, -1.0]), rtol=0, atol=0.12)
    torch.testing.assert_close(first.T.cov(), torch.tensor([[4.0, 2.0], [2.0, 1.25]]), rtol=0, atol=0.3)


@pytest.mark.parametrize("dim", [2, SCRAMBLED_ANEW_UP_TO + 36])
def test_sobol_points_are_uniform_and_even(dim: int) -> None:
    draws = torch.stack([sobol_points(256, dim, seed) for seed in range(60)])
    assert draws.min() >= 0
    assert draws.max() < 1
    # Any one point is uniform over the draws; in each draw every 256th of every side holds one point.
    first = draws[:, 0]
    assert (first.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 60) ** 0.5
    assert (first.var(0) - 1 / 12).abs().mean() < 0.02
    assert ((draws * 256).long().sort(1).values == torch.arange(256)[:, None]).all()
    assert torch.equal(draws[7], sobol_points(256, dim, 7))
    assert not torch.equal(draws[7], draws[8])
    # Averages of products of two coordinates, which no single coordinate decides, are better than at random, too.
    products = (2 * draws[..., 0] - 1) * (2 * draws[..., 1] - 1)
    assert products.mean(1).std() < 0.6 * (1 / 9 / 256) ** 0.5


def test_sobol_batches_vary_less() -> None:
    law = gaussian_mixture(3 * ring_centers(3).float(), 0.3)
    spread = {
        scheme: torch.stack([law.draw(256, i, scheme=scheme).mean(0) for i in range(40)]).std(0).max()
        for scheme in ("random", "sobol")
    }
    assert spread["sobol"] < 0.2 * spread["random"]


def test_every_measure_has_points_in_the_plane() -> None:
    for name in MEASURES:
        points = measure(name).draw(500, 0)
        assert points.shape == (500, 2)
        assert torch.isfinite(points).all()
    assert normal(5).draw(10, 1).shape == (10, 5)


def test_cloud_draws_its_points_evenly() -> None:
    points = torch.arange(10.0).unsqueeze(1)
    counts = cloud(points).draw(1000, 0, scheme="sobol").long().flatten().bincount(minlength=10)
    assert counts.min() >= 98
    assert counts.max() <= 102


def test_files_of_points_are_checked(tmp_path: Path) -> None:
    good = np.random.default_rng(0).normal(size=(20, 3))
    np.save(tmp_path / "good.npy", good)
    torch.testing.assert_close(load_points(tmp_path / "good.npy"), torch.as_tensor(good, dtype=torch.float32))
    assert measure(tmp_path / "good.npy").dim == 3
    good[[3, 7]] = np.nan
    np.save(tmp_path / "nan.npy", good)
    with pytest.raises(UserError, match=r"nan\.npy has 2 rows with NaN or infinite entries \(rows 3, 7\)"):
        load_points(tmp_path / "nan.npy")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(UserError, match=r"shape \(5,\)"):
        load_points(tmp_path / "flat.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(UserError, match="is not a"):
        load_points(tmp_path / "text.npy")
    with pytest.raises(UserError, match="no file"):
        load_points(tmp_path / "absent.npy")
    with pytest.raises(UserError, match="not one of"):
        measure("9gaussians")


@pytest.mark.parametrize("scheme", ["random", "sobol"])
@pytest.mark.parametrize("dim", [2, SCRAMBLED_ANEW_UP_TO + 6])
def test_rows_of_a_draw_are_parts_of_the_whole(dim: int, scheme: Any) -> None:
    whole = normal(dim).draw(101, "seed", 3, scheme=scheme)
    for ends in ((0, 101), (0, 50, 101), (0, 1, 2, 101)):
        parts = [
            normal(dim).draw(101, "seed", 3, scheme=scheme, rows=range(low, high))
            for low, high in itertools.pairwise(ends)
        ]
        # The same uniform numbers to the bit, and the same function of each.
        assert torch.equal(torch.cat(parts), whole)
