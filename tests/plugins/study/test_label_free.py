"""The label-free measures of embeddings, and two samples compared, as commands tell them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wasskit.errors import UserError
from wasskit.evaluation import rankme
from wasskit.plugins.study.label_free import measure_label_free

Cli = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_uniform_points_are_as_uniform_points() -> None:
    """Within five deviations of what the same number of uniform points shows."""
    z = torch.nn.functional.normalize(normal(800, 20))
    found = measure_label_free(z, views=normal(100, 1, 20) + 0.5 * normal(100, 4, 20, seed=1))
    for name, value in found.values.items():
        null = found.nulls[name]
        assert abs(value - null.mean) < 5 * null.deviation, name


@pytest.mark.slow
def test_collapse_is_far_from_uniform() -> None:
    """But for alpha-ReQ: empty dimensions have no logarithm, and the others are as flat as before."""
    z = torch.cat([normal(800, 10), torch.zeros(800, 10)], 1)
    found = measure_label_free(z)
    assert found.values["rankme"] < 11
    for name in ("rankme", "sigreg", "sliced_w2"):
        null = found.nulls[name]
        assert abs(found.values[name] - null.mean) > 10 * null.deviation, name


@pytest.mark.slow
def test_zero_rows_are_left_out_and_scale_does_not_matter() -> None:
    z = normal(300, 8).double()
    plain = measure_label_free(z).values
    for changed in (torch.cat([z, torch.zeros(5, 8)]), 1e300 * z, 1e-300 * z):
        assert measure_label_free(changed).values == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(300, 8), (30, 50)])
def test_a_rotation_changes_nothing_that_is_told(n: int, m: int) -> None:
    """The directions are drawn by a seed, and turn with the embeddings.

    The axes come from float64: gaps of 1e-3 between eigenvalues leave errors of 1e-13. Projections are float32, sums of
    50 products at most: 50 times 1.2e-7, rounded up to 1e-5. Directions that stay where they are differ by 1e-3.
    """
    z = (normal(n, m).exp() * torch.arange(1, m + 1)).double()
    rotation = torch.linalg.qr(normal(m, m, seed=1).double())[0]
    plain, turned = (measure_label_free(x, compared=False).values for x in (z, z @ rotation))
    assert turned == pytest.approx(plain, rel=1e-5)


def test_views_of_another_width() -> None:
    with pytest.raises(UserError, match=r"--views must hold an array \(n, q, 8\)"):
        measure_label_free(normal(30, 8), views=normal(5, 2, 7))


@pytest.mark.slow
def test_measure_tells_label_free_measures(run_cli: Cli, tmp_path: Path) -> None:
    x = normal(200, 6).numpy()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "views.npy", normal(50, 3, 6).numpy())
    words = ("study", "measure", tmp_path / "x.npy", "--views", tmp_path / "views.npy", "--run-dir", tmp_path / "run")
    result = run_cli(*words, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["rankme"] == pytest.approx(float(rankme(torch.from_numpy(x))))
    for name in ("rankme", "alpha_req", "sigreg", "sliced_w2", "lidar"):
        assert told[f"{name}_uniform_sd"] > 0
    rows = (tmp_path / "run" / "label_free.csv").read_text().splitlines()
    assert rows[0] == "label-free measure,measured,uniform sample,standard deviation"
    assert len(rows) == 6


def test_compare_tells_whether_the_distribution_has_moved(run_cli: Cli, tmp_path: Path) -> None:
    for seed, (name, shift) in enumerate({"a": 0.0, "b": 0.0, "c": 2.0}.items()):
        np.save(tmp_path / f"{name}.npy", normal(80, 4, seed=seed).numpy() + shift)
    for other, moved in {"b": False, "c": True}.items():
        words = ("study", "compare", tmp_path / "a.npy", tmp_path / f"{other}.npy", "--run-dir", tmp_path / other)
        result = run_cli(*words, "--permutations", "99", "--json")
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        assert told["moved"] is moved
        assert (tmp_path / other / "comparison.csv").is_file()


def test_compare_says_where_permutations_are_too_few_to_tell(run_cli: Cli, tmp_path: Path) -> None:
    """Three times the least p-value, 1 / (permutations + 1), must not exceed 5 %."""
    np.save(tmp_path / "a.npy", normal(80, 4, seed=0).numpy())
    np.save(tmp_path / "b.npy", normal(80, 4, seed=1).numpy() + 9)
    for number, moved in ((58, False), (59, True)):
        words = ("study", "compare", tmp_path / "a.npy", tmp_path / "b.npy", "--run-dir", tmp_path / f"{number}")
        told = run_cli(*words, "--permutations", str(number)).stdout
        assert ("The distribution has moved" in told) is moved
        assert ("take at least --permutations 59" in told) is not moved
        assert "Nothing shows" not in told


def test_compare_refuses_other_widths(run_cli: Cli, tmp_path: Path) -> None:
    for name, width in {"a": 4, "b": 5}.items():
        np.save(tmp_path / f"{name}.npy", normal(20, width).numpy())
    result = run_cli("study", "compare", tmp_path / "a.npy", tmp_path / "b.npy", "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert re.search(r"b\.npy has vectors of 5 numbers, \S*a\.npy of 4", result.stderr)
