"""What a few repeats say: means with intervals of Student's t, paired differences, and many tests at once.

Everything here takes one number for each repeat and treats repeats as independent draws of one normal distribution.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; of a difference, also the two-sided p-value of its being zero.

    ``low``, ``high`` and ``p`` are None where one repeat, or repeats without any difference, tell no deviation.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    p: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean of n values with ``mean +- t s / sqrt(n)``: s is their deviation with n - 1 in the denominator, t the
    quantile (1 + level) / 2 of Student's distribution with n - 1 degrees of freedom.

    Raises ``ValueError`` without any value, and for a level outside (0, 1).
    """
    from scipy.special import betaincinv

    if not values or not 0 < level < 1:
        raise ValueError(f"an interval needs a value or more and a level in (0, 1), not {len(values)} and {level}")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(mean, None, None, 1)
    # T^2 / (T^2 + n - 1) follows the beta distribution of (1/2, (n - 1) / 2), whose quantiles every version of SciPy
    # has to the last place.
    share = float(betaincinv(0.5, (n - 1) / 2, level))
    half = math.sqrt((n - 1) * share / (1 - share)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Sequence[float], baseline: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean of ``values[i] - baseline[i]`` with the interval of :func:`mean_interval`, and the p-value ``2 P(T >
    |mean| sqrt(n) / s)`` of the paired t test: s is the deviation of the differences, T has n - 1 degrees of freedom.

    Raises ``ValueError`` for another number of values than of the baseline's.
    """
    from scipy.special import stdtr

    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    found = mean_interval(differences, level)
    deviation = statistics.stdev(differences) if len(differences) > 1 else 0.0
    # Percentages are rounded, and so is each difference of two: equal ones may differ by some units in the last place.
    if deviation <= 8 * sys.float_info.epsilon * max(abs(x) for x in (*values, *baseline)):
        return found
    t = found.mean * math.sqrt(found.count) / deviation
    return Estimate(found.mean, found.low, found.high, found.count, 2 * float(stdtr(found.count - 1, -abs(t))))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values of several tests that may be read together (Holm, Scandinavian Journal of Statistics, 1979).

    Sorted, the k-th smallest of m becomes the largest of ``(m - j + 1) p_j`` over j <= k, at most 1. None stays None
    and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def share_error(percent: float, count: int) -> float:
    """The standard error ``sqrt(p (100 - p) / N)`` of a share in percent of ``count`` things."""
    return math.sqrt(percent * (100 - percent) / count)


def chance_difference(first: float, second: float, count: int) -> float:
    """Two standard errors of the difference of two shares in percent, each of ``count`` things. A smaller difference
    may be chance."""
    return 2 * math.hypot(share_error(first, count), share_error(second, count))


def p_text(p: float) -> str:
    """A p-value with three decimals; one that they would make 0 as a bound."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
