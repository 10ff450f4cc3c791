r"""Whether two quantities rank alike: Spearman's rho and Kendall's tau-b of a few pairs, with their uncertainty.

p-values are those of permutations: all n! of them up to n = 7, 9,999 random ones beyond, the observed one counted.
Intervals are on Fisher's scale, tanh(atanh r +- 1.96 s), with s^2 = (1 + rho^2 / 2) / (n - 3) for rho (Bonett and
Wright, 2000) and 0.437 / (n - 4) for tau (Fieller, Hartley and Pearson, 1957).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WHOLE = 7
_RANDOM = 9_999
_SLACK = 1e-9
"""Statistics that differ by less are equal but for rounding."""


@dataclass(frozen=True)
class Correlation:
    """A coefficient, the ends of its 95 % interval (None where it is not known: |r| = 1, or too few pairs), and its
    two-sided p-value."""

    value: float
    low: float | None
    high: float | None
    p: float


@dataclass(frozen=True)
class RankCorrelation:
    """Of ``n`` pairs."""

    n: int
    spearman: Correlation
    kendall: Correlation


def rank_correlation(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> RankCorrelation | None:
    """Rank correlations of pairs (n,), n at least 3, of finite numbers; None where all x or all y are equal.

    Raises:
        ValueError: other shapes, fewer than three pairs, numbers that are not finite.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 3:
        raise ValueError(f"rank correlations need at least three pairs, not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("rank correlations need finite numbers")
    n = len(a)
    r, s = _centred_ranks(a), _centred_ranks(b)
    signs, others = (np.sign(v[:, None] - v[None]) for v in (a, b))
    if not r.any() or not s.any():
        return None
    orders = _orders(n, seed)
    agreeing = float((signs * others).sum())
    rho = float(r @ s) / math.sqrt(float(r @ r) * float(s @ s))
    tau = agreeing / math.sqrt(float(np.square(signs).sum() * np.square(others).sum()))
    products = s[orders] @ r
    counts = np.concatenate(
        [np.einsum("ij,pij->p", signs, others[part[:, :, None], part[:, None]]) for part in _blocks(orders, n)]
    )
    return RankCorrelation(
        n,
        _correlation(rho, _tail(products, float(r @ s)), (1 + rho**2 / 2) / (n - 3) if n > 3 else None),
        _correlation(tau, _tail(counts, agreeing), 0.437 / (n - 4) if n > 4 else None),
    )


def _centred_ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, those of equal numbers their mean, minus their mean."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return ranks - (len(x) + 1) / 2


def _orders(n: int, seed: int) -> NDArray[np.int64]:
    """Permutations (p, n): all, or the given order and random ones."""
    if n <= _WHOLE:
        return np.array(list(itertools.permutations(range(n))))
    random = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (_RANDOM, 1)), axis=1)
    return np.concatenate([np.arange(n)[None], random])


def _blocks(orders: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    rows = max(1, (1 << 22) // (n * n))
    return [orders[i : i + rows] for i in range(0, len(orders), rows)]


def _tail(found: NDArray[np.float64], observed: float) -> float:
    """The share of permutations as extreme as what was observed, which is one of them."""
    return float((np.abs(found) >= abs(observed) * (1 - _SLACK)).mean())


def _correlation(value: float, p: float, variance: float | None) -> Correlation:
    value = float(np.clip(value, -1.0, 1.0))
    if variance is None or abs(value) > 1 - _SLACK:
        return Correlation(value, None, None, p)
    centre, half = math.atanh(value), 1.959964 * math.sqrt(variance)
    return Correlation(value, math.tanh(centre - half), math.tanh(centre + half), p)
