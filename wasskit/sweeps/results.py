"""What came of the trainings of a grid: means and deviations over the seeds, in a table and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from wasskit.config import display
from wasskit.evaluation.intervals import paired_difference
from wasskit.evaluation.metrics import Metric, Metrics
from wasskit.pictures.bars import Value, decimals, draw_bars
from wasskit.pictures.look import Look
from wasskit.report import Report, Table
from wasskit.sweeps.axes import Point
from wasskit.training.run import RunDirectory

__all__ = [
    "Row", "average", "averaged", "columns_of", "compared", "final_metrics", "over_seeds", "row_of", "sweep_report",
]  # fmt: skip

_SHOWN = 4
_COMPARED = ("setting", "reference", "seeds", "metric", "difference", "p")


@dataclass(frozen=True)
class Row:
    """Results of one setting over its seeds: metric -> mean and deviation over the seeds, and the values of each seed,
    in the order of the grid."""

    settings: Mapping[str, Any]
    seeds: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    values: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    bare: ClassVar[tuple[str, ...]] = ("method",)
    """Settings whose value says enough."""

    @property
    def name(self) -> str:
        return ", ".join(
            display(value) if key in self.bare else f"{key} {display(value)}" for key, value in self.settings.items()
        )

    def text(self, metric: str, digits: int = 2) -> str | None:
        """Mean and, over several seeds, deviation."""
        if metric not in self.mean:
            return None
        deviation = f" ± {self.deviation[metric]:.{digits}f}" if self.seeds > 1 else ""
        return f"{self.mean[metric]:.{digits}f}{deviation}"


R = TypeVar("R", bound=Row)


def average(points: Sequence[Point[Any]], measures: Callable[[Point[Any]], Mapping[str, float]]) -> list[Row]:
    """The metrics of all points, seeds averaged; deviations are those of a sample (n - 1)."""
    groups: dict[tuple[tuple[str, Any], ...], list[Mapping[str, float]]] = {}
    for point in points:
        key = tuple((name, value) for name, value in point.settings.items() if name != "seed")
        groups.setdefault(key, []).append(measures(point))
    return [row_of(Row, dict(key), found) for key, found in groups.items()]


def row_of(kind: type[R], settings: Mapping[str, Any], found: Sequence[Mapping[str, float]]) -> R:
    """The row of a setting from the metrics of each seed."""
    columns = columns_of(found)
    return kind(settings, len(found), *averaged(columns), columns)


def columns_of(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The values over the seeds of the metrics that all of them have."""
    return {name: [one[name] for one in found] for name in found[0] if all(name in one for one in found)}


def averaged(columns: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means and deviations of values over seeds; 0 is the deviation of one."""
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    return means, {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in columns.items()}


def compared(row: Row, reference: Row) -> Iterator[tuple[str, float, float | None]]:
    """How a setting differs from another with the same seeds: metric, mean difference, p.

    ``p``: of the two-sided paired t-test over the seeds (`wasskit.evaluation.intervals.paired_difference`), not
    corrected for the number of tests; None where all seeds differ by the same. Without two seeds nothing is compared.
    """
    for name, values in row.values.items():
        others = reference.values.get(name, ())
        if len(values) != len(others) or len(values) < 2:
            continue
        found = paired_difference(values, others)
        yield name, found.mean, found.p


def final_metrics(root: Path, point: Point[Any]) -> dict[str, float]:
    """What a combination's training measured at its end, the monitored metric first, and the time that it took;
    ``split/metric`` -> value."""
    (name,) = point.trainings
    summary = RunDirectory.open(root / name).summary or {}
    final: dict[str, float] = dict(summary.get("final") or {})
    if "wall_seconds" in summary:
        final["run/wall_seconds"] = summary["wall_seconds"]
    monitored = (summary.get("best") or {}).get("metric")
    return {key: final[key] for key in sorted(final, key=lambda key: key != monitored)}


def over_seeds(rows: Sequence[Row]) -> str:
    """What the figures of a table are, where there are several seeds."""
    seeds = max((row.seeds for row in rows), default=1)
    return f"mean and deviation of {seeds} seeds" if seeds > 1 else ""


def sweep_report(command: str, rows: Sequence[Row], metrics: Metrics) -> Report:
    """The rows by their final metrics: the few of which one way is better in a table and a figure, all in a file."""
    found = dict.fromkeys(name for row in rows for name in row.mean)
    declared = {name: metrics[name.partition("/")[2]] for name in found}
    shown = [name for name in found if declared[name].order is not None][:_SHOWN] or list(found)[:_SHOWN]
    headings = [_heading(name, declared[name]) for name in shown]
    digits = {name: decimals([row.mean[name] for row in rows if name in row.mean]) for name in shown}
    lines = [(row.name or "all", *(row.text(name, digits[name]) for name in shown)) for row in rows]
    title = ", ".join(filter(None, (command, over_seeds(rows))))
    tidy: list[Sequence[Any]] = [
        (row.name, row.seeds, name, row.mean[name], row.deviation[name]) for row in rows for name in row.mean
    ]
    apart = [
        (row.name, reference.name, row.seeds, *difference)
        for place, row in enumerate(rows)
        for reference in rows[:place]
        for difference in compared(row, reference)
    ]
    panels = {
        heading: {
            number: Value(row.mean[name], row.deviation[name] if row.seeds > 1 else None, row.seeds)
            for number, row in enumerate(rows)
            if name in row.mean
        }
        for heading, name in zip(headings, shown, strict=True)
    }
    captions = [row.name or "all" for row in rows]
    return Report(
        {"rows": [asdict(row) | {"name": row.name} for row in rows]},
        [Table(("setting", *headings), lines, title)],
        files={
            "table.csv": Table(("setting", "seeds", "metric", "mean", "deviation"), tidy),
            **({"differences.csv": Table(_COMPARED, apart)} if apart else {}),
        },
        figures={"sweep": lambda: draw_bars(captions, panels, Look("paper", "double"), title=title)} if panels else {},
    )


def _heading(name: str, metric: Metric) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{name.partition('/')[0]} {metric.heading}{unit}"
