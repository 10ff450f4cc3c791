"""W2 and L_U of samples over seeds, beside what the law of the samples lets expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from wasskit.plugins.study.expectations import Expected


@dataclass(frozen=True)
class SeedMetrics:
    """-W2 and -L_U, as the paper plots them (the larger the more uniform).

    Args:
        neg_w2, neg_lu: means over seeds; ``*_se`` their standard errors from the seeds' scatter, None for a single
            seed; ``*_law_se`` the standard errors that the law gives them.
        neg_w2_expected: what a sample of n points is expected to show.
        neg_w2_exact, neg_lu_exact: of the law itself.
    """

    neg_w2: float
    neg_w2_se: float | None
    neg_w2_law_se: float
    neg_w2_expected: float
    neg_w2_exact: float
    neg_lu: float
    neg_lu_se: float | None
    neg_lu_law_se: float
    neg_lu_exact: float

    @classmethod
    def beside_law(
        cls, w2: tuple[float, float | None], lu: tuple[float, float | None], exact: tuple[float, float], one: Expected,
        seeds: int,
    ) -> SeedMetrics:  # fmt: skip
        """From the means of -W2 and -L_U with their standard errors, W2 and L_U of the law, and one sample's errors."""
        w2_law_se, lu_law_se = (error / math.sqrt(seeds) for error in (one.w2_error, one.lu_error))
        exact_w2, exact_lu = exact
        return cls(*w2, w2_law_se, 0 - one.w2, 0 - exact_w2, *lu, lu_law_se, 0 - exact_lu)


NAMES = tuple(f.name for f in fields(SeedMetrics))
"""The columns of CSV files, in the order of the fields."""


def shown_columns(found: Sequence[SeedMetrics]) -> dict[str, list[Any]]:
    """The columns of a printed table by their headings; standard errors by their first digit."""

    def error(value: float | None) -> str | None:
        return None if value is None else f"{value:.0e}"

    return {
        "-W2": [o.neg_w2 for o in found],
        "± W2": [error(o.neg_w2_se) for o in found],
        "expected at N": [o.neg_w2_expected for o in found],
        "exact W2": [o.neg_w2_exact for o in found],
        "-L_U": [o.neg_lu for o in found],
        "± L_U": [error(o.neg_lu_se) for o in found],
        "exact L_U": [o.neg_lu_exact for o in found],
    }


def against_law(found: Sequence[SeedMetrics]) -> tuple[dict[str, Any], str]:
    """How far samples are from what they should show, for a summary and as a sentence.

    The largest differences; and of those in the law's standard errors the largest, and the shares within one and within
    two (of a normal: 68 and 95 %).
    """
    differences = {
        "w2_expected_at_n": [abs(o.neg_w2 - o.neg_w2_expected) for o in found],
        "w2_exact": [abs(o.neg_w2 - o.neg_w2_exact) for o in found],
        "lu_exact": [abs(o.neg_lu - o.neg_lu_exact) for o in found],
    }
    errors, parts = {}, []
    for name, key, of_law in (("W2", "w2_expected_at_n", "neg_w2_law_se"), ("L_U", "lu_exact", "neg_lu_law_se")):
        sizes = [size / getattr(o, of_law) for size, o in zip(differences[key], found, strict=True)]
        one, two = (sum(size <= most for size in sizes) / len(sizes) for most in (1, 2))
        errors[key] = {"largest": max(sizes), "within_one": one, "within_two": two}
        parts.append(f"{name} {one:.0%} of the rows within one, {two:.0%} within two, at most {max(sizes):.1f}")
    largest = {key: max(sizes) for key, sizes in differences.items()}
    sentence = f"Against the law, in its own standard errors: {'; '.join(parts)}."
    return {"largest_difference": largest, "standard_errors": errors}, sentence
