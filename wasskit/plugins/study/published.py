"""The figures of the paper, cell by cell: `published.csv`, and what they were computed from.

Their finite-sample bias tells the sample sizes: near uniformity W2 is about sqrt((d+3)/(4N)). The collapse study agrees
with N = 50,000 (not with the 20,000 of its script), feature cloning and feature baby with N = 1,000 (not with 50,000).
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple

from wasskit.plugins.study.cases import Case

#: Points per sample behind each published figure, as its own bias shows.
PUBLISHED_SIZES = {"collapse": 50_000, "dimension": 50_000, "fcc": 1_000, "fbc": 1_000, "icc": 1_000}


class Published(NamedTuple):
    """-W2 and -L_U, to four decimals."""

    neg_w2: float
    neg_lu: float


@functools.cache
def _table() -> dict[tuple[str, int, str, int], Published]:
    with (Path(__file__).parent / "published.csv").open(newline="", encoding="utf-8") as file:
        return {
            (row["study"], int(row["m"]), row["eta"], int(row["k"])): Published(
                float(row["neg_w2"]), float(row["neg_lu"])
            )
            for row in csv.DictReader(file)
        }


def published(case: Case) -> Published | None:
    """The paper's figures for a case; None where it has none."""
    return _table().get((case.kind, case.m, f"{case.eta:g}", case.k))
