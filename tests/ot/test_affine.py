"""The optimal affine maps between the Gaussians of two clouds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wasskit.ot import bures_wasserstein_squared, gaussian_maps


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov(correction=0)


def test_it_carries_one_gaussian_to_the_other_at_the_cost_of_their_distance() -> None:
    x, y = draw(50, 4) @ draw(4, 4, seed=2), draw(30, 4, seed=1) + 2
    maps = gaussian_maps(x, y)
    moved = maps.forward(x)
    for found, expected in zip(moments(moved), moments(y), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close((moved - x).square().sum(1).mean(), bures_wasserstein_squared(*moments(x), *moments(y)))
    torch.testing.assert_close(maps.inverse(moved), x)
    torch.testing.assert_close(maps.forward.matrix, maps.forward.matrix.T)


def test_weights_count_points() -> None:
    x, y = draw(10, 3), draw(8, 3, seed=1)
    counts = torch.tensor([1, 2, 3, 1, 1, 1, 2, 1, 1, 5])
    weighted, repeated = (gaussian_maps(x, y, x_weights=counts), gaussian_maps(x.repeat_interleave(counts, 0), y))
    for found, expected in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(found.matrix, expected.matrix)
        torch.testing.assert_close(found.shift, expected.shift)


def test_pot() -> None:
    ot = pytest.importorskip("ot")
    x, y, a = draw(40, 4), draw(27, 4, seed=1), torch.rand(40, dtype=torch.float64)
    a = a / a.sum()
    matrix, shift = ot.gaussian.empirical_bures_wasserstein_mapping(
        x.numpy(), y.numpy(), reg=1e-14, ws=a.numpy()[:, None]
    )
    found = gaussian_maps(x, y, x_weights=a).forward
    torch.testing.assert_close(found.matrix, torch.from_numpy(matrix), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.shift, torch.from_numpy(shift.ravel()), rtol=1e-9, atol=1e-9)


def test_a_singular_source_is_mapped_on_its_support() -> None:
    x = draw(20, 3)
    x[:, 2] = 5.0
    y = draw(20, 3, seed=1)
    y[:, 2] = -1.0
    maps = gaussian_maps(x, y)
    torch.testing.assert_close(maps.inverse(maps.forward(x)), x)


def test_points_keep_their_dtype() -> None:
    x = draw(9, 2).float()
    assert gaussian_maps(x, x).forward(x).dtype == torch.float32


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="two clouds of shapes"):
        gaussian_maps(draw(3, 2), draw(3, 4))
