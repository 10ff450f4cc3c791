"""Pairs of the continuous Wasserstein-2 benchmark: its files, its checkpoints, and pairs of its form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.errors import UserError
from wasskit.models.icnn import DenseICNN
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments.benchmark import (
    PUBLISHED,
    benchmark_checkpoints,
    benchmark_file,
    made_pair,
    published_mixture,
)


def test_published_rows() -> None:
    assert PUBLISHED["W2GN, published (250,000 steps)"][64] == 7.2


def test_made_pair_is_standardised_and_not_linear() -> None:
    pair = made_pair(4, 0, 4000)
    points = pair.target.draw(1 << 15, 5).double()
    assert points.mean(0).abs().max() < 0.05
    assert float(points.var(0).sum()) == pytest.approx(4.0, rel=0.03)
    transport = W2GN.dense(4, start=(pair.source.draw(20000, 1), pair.target.draw(20000, 2)), hidden=(4,))
    scores = pair.scores(transport)["test"]
    assert scores["uvp_forward"] > 3
    torch.testing.assert_close(made_pair(4, 0, 10).forward(pair.x[:5]), pair.y[:5])


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 16])
def test_benchmark_files(data_root: Path, dim: int) -> None:
    path = data_root / "w2benchmark" / f"mix3tomix10_{dim}.npz"
    pair = benchmark_file(path)
    torch.testing.assert_close(pair.forward(pair.x), pair.y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair.source.draw(64, 1), published_mixture(dim).draw(64, 1), rtol=1e-5, atol=1e-5)
    with np.load(path) as archive:
        linear = float(archive["linear_uvp"])
    transport = W2GN.dense(dim, start=(pair.source.draw(65536, 1), pair.target.draw(65536, 2)), hidden=(4,))
    assert pair.scores(transport)["test"]["uvp_forward"] == pytest.approx(linear, rel=0.02)


def test_published_checkpoints_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = [DenseICNN(2, (64, 64, 32), strong_convexity=1e-2) for _ in range(2)]
    for i, network in enumerate(networks, 1):
        torch.save(network.state_dict(), tmp_path / f"2_v{i}.pt")
    pair = benchmark_checkpoints(tmp_path, 2, 500)
    plain = sum(network.gradient(pair.x) for network in networks)
    assert isinstance(plain, torch.Tensor)
    displacement = pair.y - pair.y.mean(0)
    torch.testing.assert_close(
        displacement / displacement.norm(), (plain - plain.mean(0)) / (plain - plain.mean(0)).norm()
    )
    with pytest.raises(UserError, match=r"no 8_v1\.pt .*one of \[2\]"):
        benchmark_checkpoints(tmp_path, 8)


def test_damaged_pairs_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", centers=np.zeros((3, 2)))
    with pytest.raises(UserError, match="lacks maps, std"):
        benchmark_file(tmp_path / "half.npz")
    with pytest.raises(UserError, match="no benchmark pair at"):
        benchmark_file(tmp_path / "absent.npz")
