from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from scipy import stats

from wasskit.evaluation.intervals import Estimate, chance_difference, holm, mean_interval, p_text, paired_difference

#: Quantiles of older versions of SciPy (1.11, say) are off by up to 1e-8.
EXACT = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 17)


def test_the_chance_of_two_shares_by_hand() -> None:
    # 2 sqrt((50 x 50 + 50 x 50) / 5000) = 2.
    assert chance_difference(50.0, 50.0, 5000) == 2.0
    assert chance_difference(100.0, 0.0, 10) == 0.0


def test_a_small_p_value_is_a_bound() -> None:
    assert [p_text(p) for p in (1.0, 0.0449, 0.001, 0.00099, 0.0)] == ["1.000", "0.045", "0.001", "< 0.001", "< 0.001"]


def test_an_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1; with two degrees of freedom t = a sqrt(2 / (1 - a^2)) at (1 + a) / 2, a = 0.95."""
    found = mean_interval([1.0, 2.0, 3.0])
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    assert (found.mean, found.count, found.p) == (2.0, 3, None)
    assert found.half_width == pytest.approx(half, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_and_tests_are_those_of_scipy(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(60, 2, (2, n))
    found = mean_interval(a.tolist(), level)
    low, high = stats.t.interval(level, n - 1, a.mean(), stats.sem(a))
    if EXACT:
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.half_width is not None
    # The distribution function, which every version has to the last places, takes the quantile back to the level.
    reached = 2 * stats.t.cdf(found.half_width / stats.sem(a), n - 1) - 1
    assert reached == pytest.approx(level, rel=1e-12)
    difference = paired_difference(a.tolist(), b.tolist(), level)
    test = stats.ttest_rel(a, b)
    ends = test.confidence_interval(level)
    assert difference.p == pytest.approx(test.pvalue, rel=1e-9)
    if EXACT:
        assert (difference.low, difference.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_pairing_takes_out_what_repeats_share() -> None:
    shared = [50.0, 60.0, 70.0, 80.0]
    found = paired_difference([x + d for x, d in zip(shared, (1.0, 1.1, 0.9, 1.0), strict=True)], shared)
    assert found.low is not None
    assert 0.8 < found.low < 1 < (found.high or 0) < 1.2
    assert found.p is not None
    assert found.p < 1e-3


def test_an_interval_covers_as_often_as_it_says() -> None:
    """The share of 2,000 that holds the mean has a deviation of sqrt(0.95 0.05 / 2000) = 0.49 %; four of them."""
    rng = np.random.default_rng(0)
    found = [mean_interval(row.tolist()) for row in rng.normal(3, 2, (2000, 5))]
    covered = np.mean([e.low <= 3 <= e.high for e in found if e.low is not None and e.high is not None])
    assert abs(covered - 0.95) < 0.0195


def test_one_repeat_and_equal_repeats_tell_no_deviation() -> None:
    assert mean_interval([7.0]) == Estimate(7.0, None, None, 1)
    assert mean_interval([7.0]).half_width is None
    equal = paired_difference([2.0, 3.0], [1.0, 2.0])
    assert (equal.mean, equal.half_width, equal.p) == (1.0, 0.0, None)
    assert paired_difference([2.0], [1.5]).p is None
    # By the same but for rounding: 0.4 - 0.3 and 0.3 - 0.2 differ by 6e-17.
    assert paired_difference([0.3, 0.4], [0.2, 0.3]).p is None
    assert paired_difference([100 * 91 / 97, 100 * 92 / 97], [100 * 89 / 97, 100 * 90 / 97]).p is None


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.04 of three: 0.03, 0.04, then 0.04 itself, which is not below the one before."""
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"not 0 and 0\.95"):
        mean_interval([])
    with pytest.raises(ValueError, match="not 2 and 1"):
        mean_interval([1.0, 2.0], 1)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_difference([1.0], [1.0, 2.0])
