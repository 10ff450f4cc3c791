"""What came of the trainings of a grid: means and deviations over the seeds, in tables and on the terminal."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from wasskit.evaluation.intervals import p_text
from wasskit.pictures.bars import Value
from wasskit.plugins.mrl.adapt.options import ADAPTED, COMPRESSION
from wasskit.plugins.mrl.grid import Point
from wasskit.plugins.mrl.metrics import CLASSIFICATION, METRICS
from wasskit.plugins.mrl.reports import dimensions_figure
from wasskit.report import Report, Table
from wasskit.sweeps import results
from wasskit.training.run import RunDirectory

SHOWN = METRICS.headings("top1", "nn1", "precision1", "overlap10")
"""Metrics that have a table and a figure over the dimensions, of those that were measured."""
MEANS = CLASSIFICATION | SHOWN
"""Metrics whose means over the dimensions are shown."""


Key = tuple[tuple[str, Any], ...]
"""Settings by which trainings belong together."""


@dataclass(frozen=True)
class Row(results.Row):
    """Results of one setting over its seeds, of metrics at each dimension (``top1@8``) and their means (``top1``)."""

    bare: ClassVar[tuple[str, ...]] = ("method", "baseline", "code")

    def dims(self, metric: str = "top1") -> list[int]:
        """The dimensions that a metric was measured at."""
        return sorted(int(key.partition("@")[2]) for key in self.mean if key.startswith(f"{metric}@"))


def collect(root: Path, points: Sequence[Point]) -> list[Row]:
    """The final test metrics of all points, seeds averaged; deviations are those of a sample (n - 1).

    After them, for adaptors, the same by their other codes, and what the trainings measured beside themselves, of the
    first point of each seed.
    """
    groups: dict[Key, list[dict[str, float]]] = {}
    beside: dict[Key, dict[Any, dict[str, float]]] = {}
    for point in points:
        key = tuple((name, value) for name, value in point.settings.items() if name != "seed")
        metrics: dict[str, float] = {}
        measured: dict[Key, dict[str, float]] = {}  # each training of a point may have dimensions of its own
        for name in point.trainings:
            summary = RunDirectory.open(root / name, plugin="mrl").summary or {}
            final = summary.get("final", {})
            # Adaptors without a test file are measured on their validation part.
            split = f"{summary.get('measured_on', 'test')}/"
            metrics |= {k.removeprefix(split): v for k, v in final.items() if k.startswith(split) and "@" in k}
            for other, values in _measured(summary.get("compression", ()), key).items():
                measured.setdefault(other, {}).update(values)
        metrics |= measured.pop(key, {})
        for other, values in measured.items():
            beside.setdefault(other, {}).setdefault(point.settings.get("seed"), _with_means(values, point.dims))
        groups.setdefault(key, []).append(_with_means(metrics, point.dims))
    every = [*groups.items(), *((key, list(own.values())) for key, own in beside.items())]
    return [results.row_of(Row, dict(key), found) for key, found in every]


def _measured(compression: Sequence[Mapping[str, Any]], own: Key) -> dict[Key, dict[str, float]]:
    """What an adaptor's run found of each representation and code, its own first code under the key ``own``."""
    found: dict[Key, dict[str, float]] = {}
    for one in compression:
        key = own if one["method"] == ADAPTED else (("baseline", one["method"]),)
        key = key if one["code"] == compression[0]["code"] else (*key, ("code", one["code"]))
        values = {f"{name}@{one['dim']}": one[column] for column, name in COMPRESSION.items() if column in one}
        found.setdefault(key, {}).update(values)
    return found


def _with_means(metrics: Mapping[str, float], dims: Sequence[int]) -> dict[str, float]:
    """Metrics with their means over the trained dimensions; those between them are no part of it."""
    means = {}
    for base in dict.fromkeys(name.partition("@")[0] for name in metrics):
        means[base] = statistics.fmean(metrics[f"{base}@{d}"] for d in dims if f"{base}@{d}" in metrics)
    return {**metrics, **means}


def rows_table(rows: Sequence[Row]) -> Table:
    """Tidy: setting, seeds, metric, dimension (empty for the mean over them), mean, deviation."""
    lines: list[Sequence[Any]] = []
    for row in rows:
        for name, value in row.mean.items():
            metric, _, dim = name.partition("@")
            lines.append((row.name or "all", row.seeds, metric, dim, value, row.deviation[name]))
    return Table(("setting", "seeds", "metric", "dimension", "mean", "deviation"), lines)


def published_rows(rows: Sequence[Row], metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The published means over the dimensions by the rows' names, from a recipe's ``[paper.metrics]``.

    A grid's recipe has a table of metrics for each row, ``[paper.metrics."beta 0.1"]``; metrics without a table are
    those of a grid of one row.
    """
    flat = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    tables = {row.name: metrics.get(row.name, flat if len(rows) == 1 else {}) for row in rows}
    return {name: table for name, table in tables.items() if table}


@dataclass(frozen=True)
class Difference:
    """One setting against the first, with the same seeds, in one metric at one dimension (0: the mean over them).

    ``p``: as of `wasskit.sweeps.results.compared`.
    """

    row: Row
    metric: str
    dim: int
    mean: float
    p: float | None


def differences(rows: Sequence[Row]) -> Iterator[Difference]:
    """Every further setting against the first, where both have two seeds or more."""
    for row in rows[1:]:
        for name, mean, p in results.compared(row, rows[0]):
            metric, _, dim = name.partition("@")
            if metric in MEANS:
                yield Difference(row, metric, int(dim or 0), mean, p)


def grid_report(data: str, command: str, rows: Sequence[Row], paper: Mapping[str, Any]) -> Report:
    """The means over the dimensions, beside the published ones where there are any, then the metrics at each dimension,
    with deviations over the seeds, and the differences to the first row.
    """
    shown = {name: heading for name, heading in SHOWN.items() if any(row.dims(name) for row in rows)}
    beside = published_rows(rows, paper.get("metrics", {}))
    found = list(differences(rows))
    result: dict[str, Any] = {
        "rows": [asdict(row) | {"name": row.name} for row in rows],
        "differences": [asdict(one) | {"row": one.row.name} for one in found],
    }
    if len(rows) == 1:
        result["final"] = {f"test/{name}": value for name, value in rows[0].mean.items()}
    tables = [_means_table(data, rows, beside)]
    figures = {}
    for name, heading in shown.items():
        dims = sorted({d for row in rows for d in row.dims(name)})
        tables.append(_dimensions_table(data, rows, name, heading, dims))
        own = [one for one in found if one.metric == name]
        if own:
            tables.append(_differences_table(rows[0], own, heading, dims))
        series = {
            row.name or command: {
                d: Value(row.mean[f"{name}@{d}"], row.deviation.get(f"{name}@{d}"), row.seeds) for d in row.dims(name)
            }
            for row in rows
        }
        if len(dims) > 1:
            file = "dimensions" if name == "top1" else f"dimensions_{name}"
            figures[file] = functools.partial(dimensions_figure, series, f"{data.rpartition('/')[2]} {heading} (%)")
    source = paper.get("source", "the recipe does not say where")
    return Report(
        result,
        tables,
        remarks=[f"Published: {source}"] if beside else [],
        files={"table.csv": rows_table(rows)} | ({"differences.csv": _tidy(rows[0], found)} if found else {}),
        figures=figures,
    )


# --- Tables -----------------------------------------------------------------------------------------------------------


def _means_table(data: str, rows: Sequence[Row], published: Mapping[str, Mapping[str, float]]) -> Table:
    known = {name: heading for name, heading in MEANS.items() if any(name in row.mean for row in rows)}
    beside = [name for name in known if any(f"test/{name}" in one for one in published.values())]
    lines = [
        [
            row.name or "all",
            *(row.text(name) for name in known),
            *(published.get(row.name, {}).get(f"test/{name}") for name in beside),
        ]
        for row in rows
    ]
    headings = ["setting", *known.values(), *(f"published {known[name]}" for name in beside)]
    return Table(headings, lines, f"{data}, means over the dimensions (percent{_over(rows)})")


def _dimensions_table(data: str, rows: Sequence[Row], metric: str, heading: str, dims: Sequence[int]) -> Table:
    lines = [[row.name or "all", *(row.text(f"{metric}@{d}") for d in dims)] for row in rows]
    return Table(["setting", *map(str, dims)], lines, f"{data}, {heading} at each dimension (percent{_over(rows)})")


def _differences_table(first: Row, found: Sequence[Difference], heading: str, dims: Sequence[int]) -> Table:
    by_row: dict[str, dict[int, Difference]] = {}
    for one in found:
        by_row.setdefault(one.row.name, {})[one.dim] = one

    def text(one: Difference | None) -> str | None:
        return None if one is None else f"{one.mean:+.2f} ({'-' if one.p is None else p_text(one.p)})"

    lines = [[name, *(text(own.get(d)) for d in (*dims, 0))] for name, own in by_row.items()]
    title = f"{heading}, difference to {first.name or 'all'} (p of the paired t-test over {first.seeds} seeds)"
    return Table(["setting", *map(str, dims), "mean"], lines, title)


def _tidy(first: Row, found: Sequence[Difference]) -> Table:
    lines = [
        (one.row.name, first.name or "all", one.row.seeds, one.metric, one.dim or "", one.mean, one.p) for one in found
    ]
    return Table(("setting", "reference", "seeds", "metric", "dimension", "difference", "p"), lines)


def _over(rows: Sequence[Row]) -> str:
    told = results.over_seeds(rows)
    return f", {told}" if told else ""
