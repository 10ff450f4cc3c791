"""The measures of the toy experiments: modes, the level of two samples, which clouds are whitened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.data.catalog import MEASURES
from wasskit.data.toy import modes
from wasskit.errors import UserError
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments.toy import Toy, measures, modes_reached


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "normal"])
def test_targets_are_whitened_and_samples_of_them_perfect(name: str) -> None:
    source, target, whitening = measures("normal", name, None, 0)
    assert whitening is not None
    points = target.draw(20_000, 1)
    torch.testing.assert_close(points.mean(0), torch.zeros(2), rtol=0, atol=0.03)
    torch.testing.assert_close(points.T.cov(), torch.eye(2), rtol=0, atol=0.05)
    mixture = modes(name)
    if mixture is not None:
        reached, near = modes_reached(whitening.undo(points.double()), *mixture)
        assert reached == len(mixture[0]) == int(name.removesuffix("gaussians"))
        # Within three standard deviations lie 1 - exp(-9/2) of a normal in the plane.
        assert near == pytest.approx(100 * (1 - np.exp(-4.5)), abs=0.3)
    assert source.dim == 2


def test_a_lost_mode_is_counted() -> None:
    centers, std = modes("25gaussians") or (torch.zeros(0), 0.0)
    points = centers.repeat_interleave(40, 0) + 0.5 * torch.randn(1000, 2, dtype=torch.float64)
    assert modes_reached(points, centers, std)[0] == 25
    points[:21] = points[40:61]
    assert modes_reached(points, centers, std)[0] == 24
    points[:40] = 0.5 * (centers[0] + centers[1])
    reached, near = modes_reached(points, centers, std)
    assert reached == 24
    assert near == pytest.approx(96)


@pytest.mark.slow
def test_identity_scores_the_level_of_two_samples() -> None:
    toy = Toy("normal", "normal", test_size=1000)
    identity = W2GN.dense(2, hidden=(4,))
    scores = toy.scores(identity)["test"]
    assert abs(scores["energy_forward"]) < 4 * scores["energy_floor"]
    assert scores["energy_floor"] < 0.003
    assert scores["cycle_error"] < 1e-6


def test_files_stay_where_they_are_and_normals_take_their_dimension(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npy"
    np.save(path, np.random.default_rng(0).normal(size=(100, 3)) + 7)
    source, target, whitening = measures("normal", str(path), None, 0)
    assert whitening is None
    assert source.dim == target.dim == 3
    assert float(target.draw(500, 0).mean()) == pytest.approx(7, abs=0.3)
    assert measures("normal", str(path), True, 0)[2] is not None
    assert measures(str(path), "normal", None, 0)[1].dim == 3
    with pytest.raises(UserError, match="same dimension"):
        measures(str(path), "moons", None, 0)
