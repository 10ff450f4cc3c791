"""What a mean does to uniformity: normalised Gaussians N(k (1, 1), I_2) on the circle, k growing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wasskit.evaluation.uniformity import w2_uniformity
from wasskit.plugins.study.expectations import projected_normal_sample
from wasskit.plugins.study.figures import circle_panels, shift_panels
from wasskit.plugins.study.laws import projected_normal_metrics
from wasskit.plugins.study.samples import log_potentials
from wasskit.plugins.study.seed_metrics import NAMES, SeedMetrics, against_law, shown_columns
from wasskit.report import Report, Table

_SHOWN = 300


class Shift(NamedTuple):
    """The metrics of a shift k of both coordinates, and the length of the mean of the points."""

    k: float
    metrics: SeedMetrics
    mean_norm: float
    mean_norm_exact: float


def means_report(
    shifts: Sequence[float], *, n: int, seeds: Sequence[int], t: float, pairs: int | None, device: torch.device
) -> Report:
    """Both metrics and |mu| over the shift k, and the first 300 points of the first seed."""
    rows = []
    for k in shifts:
        row, visited = _row(k, n=n, seeds=seeds, t=t, pairs=pairs, device=device)
        rows.append(row)
    clouds = {shift: _points(shift, n, seeds[0])[:_SHOWN] for shift in shifts}
    places = np.geomspace(0.01, max(1.0, *shifts), 200) if max(shifts) > 0 else np.zeros(1)
    curve = []
    for shift in (0.0, *places):
        exact = projected_normal_metrics(float(shift), t)
        curve.append((float(shift), 0 - exact.lu, 0 - exact.w2))
    metrics = [row.metrics for row in rows]
    differences, agreement = against_law(metrics)
    shown = {
        "k": [f"{row.k:g}" for row in rows], **shown_columns(metrics), "|mean|": [row.mean_norm for row in rows],
        "exact |mean|": [row.mean_norm_exact for row in rows],
    }  # fmt: skip
    title = "Means: x/|x| for x ~ N(k (1, 1), I)"
    return Report(
        tables=[Table(list(shown), list(zip(*shown.values(), strict=True)), title, digits=4)],
        files={
            "means.csv": Table(
                ("k", *NAMES, "mean_norm", "mean_norm_exact"),
                [(row.k, *astuple(row.metrics), row.mean_norm, row.mean_norm_exact) for row in rows],
            )
        },
        figures={
            "means-circle": lambda: circle_panels(clouds),
            "means": lambda: shift_panels([(row.k, row.metrics) for row in rows], curve),
        },
        result={"n": n, "lu_pairs": visited, **differences},
        metrics=[
            (place, "means", {"k": row.k, "neg_w2": row.metrics.neg_w2, "neg_lu": row.metrics.neg_lu,
                              "mean_norm": row.mean_norm})
            for place, row in enumerate(rows)
        ],
        notes=(
            f"N = {n:,}. -W2 falls to -sqrt 2 and -L_U to 0 as all points become one, though x keeps its covariance.",
            agreement,
        ),
    )  # fmt: skip


def _points(shift: float, n: int, seed: int) -> NDArray[np.float64]:
    """x / |x| (n, 2) for x ~ N(shift (1, 1), I)."""
    normals = np.random.default_rng(seed).standard_normal((n, 2)) + shift
    points: NDArray[np.float64] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return points


def _row(
    shift: float, *, n: int, seeds: Sequence[int], t: float, pairs: int | None, device: torch.device
) -> tuple[Shift, int]:
    """A shift's means over the seeds beside the exact values, and the pairs that were visited."""
    measured = []
    lengths = torch.ones(n, 1, dtype=torch.float64, device=device)
    for seed in seeds:
        z = torch.from_numpy(_points(shift, n, seed)).to(device)
        ((lu,),), visited = log_potentials(z, [2], lengths, [t], pairs=pairs)
        measured.append((-float(w2_uniformity(z)), -lu, float(z.mean(dim=0).norm())))
    values = np.array(measured)
    means = values.mean(axis=0).tolist()
    errors = (values.std(axis=0, ddof=1) / math.sqrt(len(seeds))).tolist() if len(seeds) > 1 else [None] * 3
    exact = projected_normal_metrics(shift, t)
    one = projected_normal_sample(shift, n, visited, t)
    neg_w2, neg_lu, _ = zip(means, errors, strict=True)
    metrics = SeedMetrics.beside_law(neg_w2, neg_lu, (exact.w2, exact.lu), one, len(seeds))
    return Shift(shift, metrics, means[2], exact.norm), visited
