"""What a mean does to uniformity: normalised Gaussians N(k (1, 1), I_2) on the circle, k growing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wasskit.evaluation.uniformity import w2_uniformity
from wasskit.plugins.study.expectations import projected_normal_sample
from wasskit.plugins.study.figures import circle_panels, shift_panels
from wasskit.plugins.study.laws import projected_normal_metrics
from wasskit.plugins.study.samples import log_potentials
from wasskit.plugins.study.uniformity import agreement, deviations
from wasskit.report import Report, Table

_SHOWN = 300
_COLUMNS = (
    "k", "neg_w2", "neg_w2_se", "neg_w2_law_se", "neg_w2_expected", "neg_w2_exact", "neg_lu", "neg_lu_se",
    "neg_lu_law_se", "neg_lu_exact", "mean_norm", "mean_norm_exact",
)  # fmt: skip
_HEADINGS = {
    "k": "k", "neg_w2": "-W2", "neg_w2_se": "± W2", "neg_w2_expected": "expected at N", "neg_w2_exact": "exact W2",
    "neg_lu": "-L_U", "neg_lu_se": "± L_U", "neg_lu_exact": "exact L_U", "mean_norm": "|mean|",
    "mean_norm_exact": "exact |mean|",
}  # fmt: skip


def means_report(
    shifts: Sequence[float], *, n: int, seeds: Sequence[int], t: float, pairs: int | None, device: torch.device
) -> Report:
    """Both metrics and |mu| over the shift k, and the first 300 points of the first seed."""
    rows = []
    for shift in shifts:
        row, visited = _row(shift, n=n, seeds=seeds, t=t, pairs=pairs, device=device)
        rows.append(row)
    shown = {shift: _points(shift, n, seeds[0])[:_SHOWN] for shift in shifts}
    places = np.geomspace(0.01, max(1.0, *shifts), 200) if max(shifts) > 0 else np.zeros(1)
    curve = []
    for shift in (0.0, *places):
        exact = projected_normal_metrics(float(shift), t)
        curve.append((float(shift), 0 - exact.lu, 0 - exact.w2))
    deviation = {
        metric: [(row[f"neg_{metric}"] - row[f"neg_{metric}_{law}"]) / row[f"neg_{metric}_law_se"] for row in rows]
        for metric, law in (("w2", "expected"), ("lu", "exact"))
    }
    return Report(
        tables=[
            Table(
                list(_HEADINGS.values()), [_shown(row) for row in rows], "Means: x/|x| for x ~ N(k (1, 1), I)", digits=4
            )
        ],
        files={"means.csv": Table(_COLUMNS, [list(row.values()) for row in rows])},
        figures={"means-circle": lambda: circle_panels(shown), "means": lambda: shift_panels(rows, curve)},
        result={
            "n": n, "lu_pairs": visited,
            "largest_difference": {
                f"{metric}_exact": max(abs(row[f"neg_{metric}"] - row[f"neg_{metric}_exact"]) for row in rows)
                for metric in ("w2", "lu")
            },
            "standard_errors": {
                "w2_expected_at_n": deviations(deviation["w2"]), "lu_exact": deviations(deviation["lu"]),
            },
        },
        metrics=[
            (place, "means", {key: row[key] for key in ("k", "neg_w2", "neg_lu", "mean_norm")})
            for place, row in enumerate(rows)
        ],
        notes=(
            f"N = {n:,}. -W2 falls to -sqrt 2 and -L_U to 0 as all points become one, though x keeps its covariance.",
            agreement(deviation["w2"], deviation["lu"]),
        ),
    )  # fmt: skip


def _points(shift: float, n: int, seed: int) -> NDArray[np.float64]:
    """x / |x| (n, 2) for x ~ N(shift (1, 1), I)."""
    normals = np.random.default_rng(seed).standard_normal((n, 2)) + shift
    points: NDArray[np.float64] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return points


def _row(
    shift: float, *, n: int, seeds: Sequence[int], t: float, pairs: int | None, device: torch.device
) -> tuple[dict[str, Any], int]:
    """A shift's means over the seeds beside the exact values, and the pairs that were visited."""
    measured = []
    lengths = torch.ones(n, 1, dtype=torch.float64, device=device)
    for seed in seeds:
        z = torch.from_numpy(_points(shift, n, seed)).to(device)
        ((lu,),), visited = log_potentials(z, [2], lengths, [t], pairs=pairs)
        measured.append((-float(w2_uniformity(z)), -lu, float(z.mean(dim=0).norm())))
    values = np.array(measured)
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else [None] * 3
    w2, exact_lu, norm = projected_normal_metrics(shift, t)
    one = projected_normal_sample(shift, n, visited, t)
    w2_law_se, lu_law_se = (deviation / math.sqrt(len(seeds)) for deviation in (one.w2_error, one.lu_error))
    entries = (
        shift, mean[0], error[0], w2_law_se, 0 - one.w2, 0 - w2, mean[1], error[1], lu_law_se, 0 - exact_lu,
        mean[2], norm,
    )  # fmt: skip
    row = {key: None if entry is None else float(entry) for key, entry in zip(_COLUMNS, entries, strict=True)}
    return row, visited


def _shown(row: dict[str, Any]) -> list[Any]:
    """A row for the terminal: standard errors by their first digit."""
    cells: list[Any] = []
    for key in _HEADINGS:
        value = row[key]
        if key == "k":
            cells.append(f"{value:g}")
        else:
            cells.append(f"{value:.0e}" if key.endswith("_se") and value is not None else value)
    return cells
