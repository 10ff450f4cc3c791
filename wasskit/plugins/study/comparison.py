"""The report of two samples of embeddings that are compared."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from wasskit.evaluation.two_sample import Comparison
from wasskit.report import Report, Table

#: Over all three tests: each at a third of it (Bonferroni).
_LEVEL = 0.05


def comparison_report(found: Comparison, first: str, second: str) -> Report:
    """Distances with p-values and a sentence on them; ``first`` and ``second`` name the samples."""
    rows: list[tuple[str, Any, Any]] = [
        ("Frechet distance, squared", found.frechet, found.frechet_p),
        ("sliced W2, squared", found.sliced_w2, found.sliced_w2_p),
        ("energy distance, sliced", found.energy, found.energy_p),
    ]
    smallest = min(found.p_values().values())
    moved = 3 * smallest <= _LEVEL
    needed = math.ceil(3 / _LEVEL) - 1
    if moved:
        sentence = f"The distribution has moved: the smallest of three p-values is {smallest:.3g}."
    elif found.permutations < needed:
        sentence = (
            f"Whether the distribution has moved cannot be told: the smallest of three p-values is {smallest:.3g}, and "
            f"{found.permutations} permutations give none below {1 / (found.permutations + 1):.3g}; take at least "
            f"--permutations {needed}."
        )
    else:
        sentence = f"Nothing shows that the distribution has moved: the smallest of three p-values is {smallest:.3g}."
    of_rows = "" if found.rows == (found.n, found.m) else f", {found.rows[0]:,} and {found.rows[1]:,} rows relabelled"
    return Report(
        result={**asdict(found), "moved": moved, "first": first, "second": second},
        tables=[
            Table(
                ("distance", "value", "p"), rows, f"{first} ({found.n:,}) and {second} ({found.m:,}), {found.dim} "
                f"dimensions; {found.permutations} permutations{of_rows}", digits=4,
            )
        ],
        notes=[sentence + " (Level: 5 % over the three tests, by Bonferroni; rows must be independent.)"],
        files={"comparison.csv": Table(("distance", "value", "p"), rows)},
        metrics=[
            (0, "embeddings", {
                "frechet": found.frechet, "sliced_w2_squared": found.sliced_w2, "energy": found.energy,
                **{f"{name}_p": value for name, value in found.p_values().items()},
            })
        ],
    )  # fmt: skip
