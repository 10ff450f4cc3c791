"""What a mean does to uniformity: normalised Gaussians N(k (1, 1), I_2) on the circle, k growing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from wasskit.evaluation.uniformity import w2_uniformity
from wasskit.plugins.study.figures import circle_panels, shift_panels
from wasskit.plugins.study.laws import projected_normal_metrics
from wasskit.plugins.study.report import Report, Table
from wasskit.plugins.study.samples import log_potentials

__all__ = ["means_report"]

_SHOWN = 300
_COLUMNS = (
    "k", "neg_w2", "neg_w2_se", "neg_w2_exact", "neg_lu", "neg_lu_se", "neg_lu_exact", "mean_norm", "mean_norm_exact",
)  # fmt: skip


def means_report(
    shifts: Sequence[float],
    *,
    n: int,
    seeds: Sequence[int],
    t: float,
    pairs: int | None,
    device: torch.device,
) -> Report:
    """Both metrics and |mu| over the shift k, and the first 300 points of the first seed."""
    shown, rows = {}, []
    for shift in shifts:
        measured = []
        for seed in seeds:
            normals = np.random.default_rng(seed).standard_normal((n, 2)) + shift
            z = torch.from_numpy(normals / np.linalg.norm(normals, axis=1, keepdims=True)).to(device)
            if seed == seeds[0]:
                shown[shift] = z[:_SHOWN].cpu().numpy()
            lengths = torch.ones(n, 1, dtype=z.dtype, device=device)
            ((lu,),), visited = log_potentials(z, [2], lengths, [t], pairs=pairs)
            measured.append((-float(w2_uniformity(z)), -lu, float(z.mean(dim=0).norm())))
        values = np.array(measured)
        mean = values.mean(axis=0)
        error = values.std(axis=0, ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else [None] * 3
        w2, exact_lu, norm = projected_normal_metrics(shift, t)
        entries = (shift, mean[0], error[0], 0 - w2, mean[1], error[1], 0 - exact_lu, mean[2], norm)
        row: dict[str, Any] = {
            key: None if entry is None else float(entry) for key, entry in zip(_COLUMNS, entries, strict=True)
        }
        rows.append(row)
    places = np.geomspace(0.01, max(1.0, *shifts), 200) if max(shifts) > 0 else np.zeros(1)
    curve = []
    for shift in (0.0, *places):
        w2, exact_lu, _ = projected_normal_metrics(float(shift), t)
        curve.append((float(shift), 0 - exact_lu, 0 - w2))
    return Report(
        name="means", title="Means: x/|x| for x ~ N(k (1, 1), I)",
        shown=Table(
            ("k", "-W2", "± W2", "exact W2", "-L_U", "± L_U", "exact L_U", "|mean|", "exact |mean|"),
            [_shown(row) for row in rows],
        ),
        tables={"means": Table(_COLUMNS, [list(row.values()) for row in rows])},
        figures={"means-circle": circle_panels(shown), "means": shift_panels(rows, curve)},
        summary={
            "n": n, "lu_pairs": visited,
            "largest_difference": {
                f"{metric}_exact": max(abs(row[f"neg_{metric}"] - row[f"neg_{metric}_exact"]) for row in rows)
                for metric in ("w2", "lu")
            },
        },
        metrics=[
            (place, "means", {key: row[key] for key in ("k", "neg_w2", "neg_lu", "mean_norm")})
            for place, row in enumerate(rows)
        ],
        notes=(
            f"N = {n:,}. -W2 falls to -sqrt 2 and -L_U to 0 as all points become one, though x keeps its covariance.",
        ),
    )  # fmt: skip


def _shown(row: dict[str, Any]) -> list[Any]:
    """A row for the terminal: standard errors by their first digit."""
    cells: list[Any] = []
    for key, value in row.items():
        if key == "k":
            cells.append(f"{value:g}")
        else:
            cells.append(f"{value:.0e}" if key.endswith("_se") and value is not None else value)
    return cells
