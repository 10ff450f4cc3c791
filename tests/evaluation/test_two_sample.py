"""Two samples compared: the distances, and the level and power of the permutation tests."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.two_sample import compare_samples
from wasskit.ot import sliced_wasserstein_squared, slicing_directions


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_the_level_is_exact() -> None:
    """300 comparisons of samples of one law, p <= 0.1 of multiples of 1/20: a binomial count, outside of its central
    99.99 % by chance once in 10,000 runs for each of three tests; the seeds are fixed.
    """
    below = dict.fromkeys(("frechet", "sliced_w2", "energy"), 0)
    for seed in range(300):
        x = draw(27, 3, seed=seed).exp()
        found = compare_samples(x[:12], x[12:], permutations=19, directions=6, seed=seed)
        for name, p in found.p_values().items():
            below[name] += p <= 0.1
    low, high = binom.interval(0.9999, 300, 0.1)
    for name, count in below.items():
        assert low <= count <= high, name


@pytest.mark.parametrize("change", ["shift", "scale"])
def test_a_change_is_seen(change: str) -> None:
    x, y = draw(150, 3), draw(100, 3, seed=1)
    y = y + 1 if change == "shift" else 2 * y
    found = compare_samples(x, y, permutations=39, directions=12)
    assert set(found.p_values().values()) == {1 / 40}


def test_equal_rows_never_count_as_moved() -> None:
    """All permutations tie with what is observed: p = 1."""
    x = torch.ones(10, 2)
    assert set(compare_samples(x, x[:5], permutations=19).p_values().values()) == {1.0}


def test_distances_are_those_of_all_rows() -> None:
    x, y = draw(40, 3), draw(30, 3, seed=1) + 0.5
    found = compare_samples(x, y, permutations=19, directions=9, rows=20, seed=5)
    axes = slicing_directions(9, 3, like=x, generator=torch.Generator().manual_seed(5))
    assert found.rows == (20, 20)
    assert found.sliced_w2 == pytest.approx(float(sliced_wasserstein_squared(x, y, directions=axes)), rel=1e-12)


def test_relabelled_sliced_distances_are_sliced_distances() -> None:
    from wasskit.evaluation.two_sample import _sliced_statistic

    x, y = draw(7, 3), draw(5, 3, seed=1)
    axes = slicing_directions(6, 3, like=x)
    values, order = (axes @ torch.cat([x, y]).mT).sort(1)
    mask = torch.arange(12) < 7
    found = _sliced_statistic(values, order, 7)(mask)
    torch.testing.assert_close(found, sliced_wasserstein_squared(x, y, directions=axes))


def test_wrong_input() -> None:
    with pytest.raises(UserError, match="of one width"):
        compare_samples(draw(4, 3), draw(4, 2))
    with pytest.raises(UserError, match="at least two rows"):
        compare_samples(draw(4, 3), draw(1, 3))
    bad = draw(4, 3)
    bad[1, 0] = torch.inf
    with pytest.raises(UserError, match="1 of 4 rows of the second sample"):
        compare_samples(draw(4, 3), bad)
