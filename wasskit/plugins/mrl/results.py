"""What came of the trainings of a grid: means and deviations over the seeds, in a table and on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wasskit.pictures.bars import Value
from wasskit.plugins.mrl.metrics import CLASSIFICATION
from wasskit.plugins.mrl.reports import dimensions_figure
from wasskit.report import Report, Table
from wasskit.sweeps import results as sweeps
from wasskit.sweeps.axes import Point
from wasskit.training.run import RunDirectory


@dataclass(frozen=True)
class Row(sweeps.Row):
    """Results of one setting over its seeds: metric (``top1@8``, ``top1``) -> mean and deviation over the seeds."""

    @property
    def dims(self) -> list[int]:
        return sorted(int(key.partition("@")[2]) for key in self.mean if key.startswith("top1@"))


def collect(root: Path, points: Sequence[Point[Any]]) -> list[Row]:
    """The final test metrics of all points, seeds averaged; deviations are those of a sample (n - 1)."""

    def measures(point: Point[Any]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name in point.trainings:
            summary = RunDirectory.open(root / name, plugin="mrl").summary or {}
            final = summary.get("final", {})
            metrics |= {k.partition("/")[2]: v for k, v in final.items() if k.startswith("test/") and "@" in k}
        for base in dict.fromkeys(k.partition("@")[0] for k in metrics):
            metrics[base] = statistics.fmean(v for k, v in metrics.items() if k.startswith(f"{base}@"))
        return metrics

    return [Row(**vars(row)) for row in sweeps.average(points, measures)]


def rows_table(rows: Sequence[Row]) -> Table:
    """Tidy: setting, seeds, metric, dimension (empty for the mean over them), mean, deviation."""
    lines: list[Sequence[Any]] = []
    for row in rows:
        for name, value in row.mean.items():
            metric, _, dim = name.partition("@")
            lines.append((row.name, row.seeds, metric, dim, value, row.deviation[name]))
    return Table(("setting", "seeds", "metric", "dimension", "mean", "deviation"), lines)


def published_rows(rows: Sequence[Row], metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The published means over the dimensions by the rows' names, from a recipe's ``[paper.metrics]``.

    A grid's recipe has a table of metrics for each row, ``[paper.metrics."beta 0.1"]``; metrics without a table are
    those of a grid of one row.
    """
    flat = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    tables = {row.name: metrics.get(row.name, flat if len(rows) == 1 else {}) for row in rows}
    return {name: table for name, table in tables.items() if table}


def grid_report(dataset: str, command: str, rows: Sequence[Row], paper: Mapping[str, Any]) -> Report:
    """The means over the dimensions, beside the published ones where there are any, then top-1 at each dimension, with
    deviations over the seeds.
    """
    dims = sorted({d for row in rows for d in row.dims})
    beside = published_rows(rows, paper.get("metrics", {}))
    result: dict[str, Any] = {"rows": [asdict(row) | {"name": row.name} for row in rows]}
    if len(rows) == 1:
        result["final"] = {f"test/{name}": value for name, value in rows[0].mean.items()}
    series = {
        row.name or command: {
            d: Value(row.mean[f"top1@{d}"], row.deviation.get(f"top1@{d}"), row.seeds) for d in row.dims
        }
        for row in rows
    }
    source = paper.get("source", "the recipe does not say where")
    return Report(
        result,
        means_tables(dataset, rows, dims, beside),
        remarks=[f"Published: {source}"] if beside else [],
        files={"table.csv": rows_table(rows)},
        figures={"dimensions": lambda: dimensions_figure(series, "test top-1 (%)")} if len(dims) > 1 else {},
    )


def means_tables(
    dataset: str, rows: Sequence[Row], dims: Sequence[int], published: Mapping[str, Mapping[str, float]]
) -> list[Table]:
    """The means over the dimensions, and top-1 at each dimension."""

    seeds = sweeps.over_seeds(rows)
    over = f", {seeds}" if seeds else ""
    beside = [name for name in CLASSIFICATION if any(f"test/{name}" in one for one in published.values())]
    means = [
        [
            row.name or "all",
            *map(row.text, CLASSIFICATION),
            *(published.get(row.name, {}).get(f"test/{name}") for name in beside),
        ]
        for row in rows
    ]
    each = [[row.name or "all", *(row.text(f"top1@{d}") for d in dims)] for row in rows]
    headings = [
        "setting",
        *CLASSIFICATION.values(),
        *(f"published {CLASSIFICATION[name]}" for name in beside),
    ]
    return [
        Table(headings, means, f"{dataset}/test, means over the dimensions (percent{over})"),
        Table(["setting", *map(str, dims)], each, f"{dataset}/test, top-1 at each dimension (percent{over})"),
    ]
