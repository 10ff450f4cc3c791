"""Rank correlations against scipy's, with and without ties; permutation p-values by enumeration; coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from wasskit.evaluation.intervals import holm
from wasskit.evaluation.rank_correlation import rank_correlation


@pytest.mark.parametrize("n", [4, 7, 12, 40])
@pytest.mark.parametrize("tied", [False, True])
def test_coefficients_are_scipys(n: int, tied: bool) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal(n)
    y = x + rng.standard_normal(n)
    if tied:
        x, y = x.round(), y.round()
    found = rank_correlation(x, y)
    assert found is not None
    assert found.n == n
    assert found.spearman.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.kendall.value == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_p_values_of_few_pairs_are_exact(tied: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal(6), rng.standard_normal(6)
    y = y + x
    if tied:
        x = x.round()
    found = rank_correlation(x, y)
    assert found is not None
    for ours, statistic in ((found.spearman, scipy.stats.spearmanr), (found.kendall, scipy.stats.kendalltau)):
        every = [statistic(x, np.array(order)).statistic for order in itertools.permutations(y)]
        assert ours.p == pytest.approx(np.mean(np.abs(every) >= abs(ours.value) - 1e-9), abs=1e-12)
    if not tied:
        assert found.kendall.p == pytest.approx(scipy.stats.kendalltau(x, y, method="exact").pvalue)


def test_random_permutations_estimate_the_p_value() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(10)
    y = x + 2 * rng.standard_normal(10)
    found = rank_correlation(x, y)
    assert found is not None
    # An estimate from 10,000 permutations has a standard error below 0.005; both are within five of the exact value.
    assert found.kendall.p == pytest.approx(scipy.stats.kendalltau(x, y, method="exact").pvalue, abs=0.025)
    assert rank_correlation(x, y) == found


@pytest.mark.slow
def test_intervals_hold_the_truth() -> None:
    """Of 300 samples of 30 normal pairs with correlation 0.5, about 95 % of the intervals hold rho = 0.4826 and
    tau = 1/3; that fewer than 88 % or more than 99.5 % would, has odds of less than one in a million."""
    rng = np.random.default_rng(0)
    rho, tau = 6 / np.pi * np.arcsin(0.25), 2 / np.pi * np.arcsin(0.5)
    held = np.zeros(2)
    for _ in range(300):
        x = rng.standard_normal(30)
        found = rank_correlation(x, 0.5 * x + np.sqrt(0.75) * rng.standard_normal(30))
        assert found is not None
        for place, (one, truth) in enumerate(((found.spearman, rho), (found.kendall, tau))):
            assert one.low is not None
            assert one.high is not None
            held[place] += one.low <= truth <= one.high
    assert ((held > 0.88 * 300) & (held < 0.995 * 300)).all()


def test_what_is_not_known() -> None:
    """Three runs in the same order: rho = 1, the least p of six permutations, no interval. A constant ranks nothing."""
    found = rank_correlation([1, 2, 3], [5, 6, 9])
    assert found is not None
    assert (found.spearman.value, found.kendall.value) == (1, 1)
    assert found.spearman.p == pytest.approx(2 / 6)
    assert (found.spearman.low, found.kendall.high) == (None, None)
    assert rank_correlation([1, 1, 1], [5, 6, 9]) is None
    with pytest.raises(ValueError, match="at least three pairs"):
        rank_correlation([1, 2], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        rank_correlation([1, 2, np.nan], [1, 2, 3])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
