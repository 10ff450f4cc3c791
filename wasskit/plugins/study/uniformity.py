"""Studies of collapsed spheres: from cases to samples, results, tables and figures."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch

from wasskit import console
from wasskit.plugins.study.cases import Case, CaseResult, case_results, needed_ts
from wasskit.plugins.study.figures import metric_panels
from wasskit.plugins.study.options import UniformityOptions
from wasskit.plugins.study.published import PUBLISHED_SIZES, published
from wasskit.plugins.study.samples import SphereSample, draw_normals, measure_prefixes
from wasskit.plugins.study.seed_metrics import NAMES, SeedMetrics, against_law, shown_columns
from wasskit.report import Report, Table

if typing.TYPE_CHECKING:
    from wasskit.plugins.study.cases import Sphere

_CSV = ("m", "eta", "kept", "total", "k", "n", "lu_pairs", *NAMES, "published_neg_w2", "published_neg_lu")


def run_cases(
    name: str, cases: Sequence[Case], config: UniformityOptions, n: int, device: torch.device
) -> list[CaseResult]:
    """Measure every case on samples of ``n`` points, once for each of ``config.seeds``."""
    ts = needed_ts(cases, config.metrics.t)
    spheres: list[Mapping[Case, Sphere]] = []
    pairs = 0
    for repetition, seed in enumerate(config.seeds, 1):
        console.log(f"{name}: seed {seed} ({repetition} of {len(config.seeds)}), {n:,} points")
        sampled: Mapping[Case, SphereSample]
        if config.collapse.draws == "nested":
            dims = sorted({case.kept for case in cases})
            normals = draw_normals(seed, n, dims[-1], device=device)
            by_dim = measure_prefixes(normals, dims, ts, pairs=config.metrics.wanted_pairs)
            sampled = {case: by_dim[case.kept] for case in cases}
            del normals
        else:
            sampled = _independent(cases, seed, n, ts, config.metrics.wanted_pairs, device)
        pairs = next(iter(sampled.values())).pairs
        spheres.append(sampled)
    return case_results(cases, spheres, n, pairs, config.metrics.t)


def _independent(
    cases: Sequence[Case], seed: int, n: int, ts: Sequence[float], pairs: int | None, device: torch.device
) -> dict[Case, SphereSample]:
    """The published protocol: one generator, and for each dimension and collapse in turn a float64 draw (n, kept)."""
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[int, float], SphereSample] = {}
    for case in cases:
        place = (case.m, case.eta)
        if place not in drawn:
            normals = torch.from_numpy(generator.standard_normal((n, case.kept))).to(device)
            drawn[place] = measure_prefixes(normals, [case.kept], ts, pairs=pairs)[case.kept]
    return {case: drawn[case.m, case.eta] for case in cases}


def study_report(
    name: str,
    title: str,
    found: Sequence[CaseResult],
    *,
    step: Callable[[CaseResult], int],
    split: Callable[[CaseResult], str],
    metric_suffix: Callable[[CaseResult], str],
    series: Callable[[CaseResult], str],
    x: Callable[[CaseResult], float],
    xlabel: str,
    log2: bool = False,
    curves: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> Report:
    """The report of a study of collapsed spheres.

    Args:
        step, split, metric_suffix: where an outcome stands in ``metrics.csv``.
        series, x, xlabel, log2, curves: where it stands in the figure, and exact values for the lines.
    """
    points: dict[str, list[tuple[float, SeedMetrics]]] = {}
    for o in found:
        points.setdefault(series(o), []).append((x(o), o.metrics))
    metrics = [
        (
            step(o),
            split(o),
            {
                f"{metric}{metric_suffix(o)}": getattr(o.metrics, metric)
                for metric in ("neg_w2", "neg_lu", "neg_w2_exact", "neg_lu_exact")
            },
        )
        for o in found
    ]
    return Report(
        result=_summary(found), tables=[_shown(found, title)], notes=_notes(found),
        files={f"{name}.csv": Table(_CSV, [_csv_row(o) for o in found])},
        figures={name: lambda: metric_panels(points, found[0].n, xlabel, log2=log2, curves=curves)}, metrics=metrics,
    )  # fmt: skip


def _csv_row(o: CaseResult) -> list[Any]:
    paper = published(o.case)
    return [
        o.case.m, o.case.eta, o.case.kept, o.case.total, o.case.k, o.n, o.pairs, *astuple(o.metrics),
        *((paper.neg_w2, paper.neg_lu) if paper else (None, None)),
    ]  # fmt: skip


def _shown(found: Sequence[CaseResult], title: str) -> Table:
    """The table on the terminal; columns that would say the same in every row are left out."""
    columns: dict[str, list[Any]] = {
        "m": [o.case.m for o in found],
        "collapsed": [f"{100 * o.case.eta:g} %" for o in found],
        "kept": [o.case.kept for o in found],
        "k": [o.case.k for o in found],
        **shown_columns([o.metrics for o in found]),
    }
    papers = [published(o.case) for o in found]
    columns["paper W2"] = [paper.neg_w2 if paper else None for paper in papers]
    columns["paper L_U"] = [paper.neg_lu if paper else None for paper in papers]
    if not any(o.case.k for o in found):
        del columns["k"]
    if not any(papers):
        del columns["paper W2"], columns["paper L_U"]
    return Table(list(columns), list(zip(*columns.values(), strict=True)), title, digits=4)


def _summary(found: Sequence[CaseResult]) -> dict[str, Any]:
    """How far the samples are from what they should show."""
    differences, _ = against_law([o.metrics for o in found])
    summary: dict[str, Any] = {"cases": len(found), "n": found[0].n, "lu_pairs": found[0].pairs, **differences}
    known = [(o.metrics, p) for o in found if (p := published(o.case)) is not None]
    if known:
        summary["published_n"] = PUBLISHED_SIZES[found[0].case.kind]
        summary["largest_difference"] |= {
            "w2_published": max(abs(o.neg_w2 - p.neg_w2) for o, p in known),
            "lu_published": max(abs(o.neg_lu - p.neg_lu) for o, p in known),
        }
    return summary


def _notes(found: Sequence[CaseResult]) -> list[str]:
    """What the columns are, and of how many pairs."""
    n, pairs, kind = found[0].n, found[0].pairs, found[0].case.kind
    all_pairs = n * (n - 1) // 2
    share = "all pairs" if pairs == all_pairs else f"{pairs / all_pairs:.0%} of all pairs (--exact-lu visits all)"
    notes = [
        f"N = {n:,}; ±: standard error over seeds; exact: the law itself; expected at N: W2 of a sample of "
        f"N points; L_U over {share}.",
        against_law([o.metrics for o in found])[1],
    ]
    if any(published(o.case) for o in found) and n != PUBLISHED_SIZES[kind]:
        size = PUBLISHED_SIZES[kind]
        notes.append(f"The paper's figures carry the bias of N = {size:,} points: compare with --n {size}.")
    return notes


def percent(share: float) -> int:
    """A share as a whole number of percent, for the step of a metric."""
    return math.floor(100 * share + 0.5)
