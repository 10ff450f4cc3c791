"""What a study leaves behind: tables on the terminal and as CSV, figures, a summary, metrics for `wasskit plot`."""

from __future__ import annotations

import contextlib
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wasskit import console
from wasskit.config import Invocation, to_options
from wasskit.plugins.study.options import ReportOptions
from wasskit.system.files import replace_text
from wasskit.text import csv_text
from wasskit.training.run import RunDirectory

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

C = TypeVar("C", bound=ReportOptions)

__all__ = ["Report", "Table", "finish", "run_study", "study_run", "write_report"]


@dataclass(frozen=True)
class Table:
    """Headings and rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Report:
    """The outcome of one study.

    Args:
        shown: the table printed on the terminal.
        tables: file stem -> table, written as CSV with all digits.
        figures: file stem -> figure.
        summary: plain values.
        metrics: (step, split, values) for ``metrics.csv``; the step is the quantity that the study varies.
        notes: sentences printed below the table.
    """

    name: str
    title: str
    shown: Table
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure]
    summary: Mapping[str, Any]
    metrics: Sequence[tuple[int, str, Mapping[str, float]]] = ()
    notes: Sequence[str] = ()
    digits: int = 4
    written: list[Path] = field(default_factory=list)


@contextlib.contextmanager
def study_run(config: ReportOptions, invocation: Invocation, name: str) -> Iterator[tuple[RunDirectory, Any]]:
    """A new run directory runs/study/<name>, numbered if taken, and the device to compute on."""
    from wasskit.distributed.group import group

    with group(config.device) as device:
        run = RunDirectory.create(
            config.run_dir or Path("runs") / "study" / (config.name or name), command=invocation.command,
            options=to_options(config), numbered=config.run_dir is None and config.name is None,
            paper=invocation.recipe.get("paper") if invocation.recipe else None,
            seed=getattr(config, "seed", None), device=device, argv=invocation.argv,
            resumable=False,
        )  # fmt: skip
        console.log(f"Run directory: {console.escape(str(run.path))}")
        yield run, device


def write_report(run: RunDirectory, report: Report) -> None:
    """Write a report's tables, figures (PNG and PDF) and metrics into a run directory, and print its table."""
    from wasskit.pictures.style import save_figure

    for stem, table in report.tables.items():
        path = run.path / f"{stem}.csv"
        replace_text(path, csv_text([table.columns, *table.rows]))
        report.written.append(path)
    for stem, figure in report.figures.items():
        for suffix in (".png", ".pdf"):
            report.written.append(save_figure(figure, run.figures / f"{stem}{suffix}"))
    for step, split, values in report.metrics:
        run.log(0, step, split, values)
    console.table(report.title, report.shown.columns, report.shown.rows, digits=report.digits)
    for note in report.notes:
        console.result(console.escape(note))


def finish(
    run: RunDirectory, reports: Sequence[Report], started: float, following: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``summary.json`` of one or several reports, say where everything is, and return the summary."""
    seconds = round(time.perf_counter() - started, 1)
    content: dict[str, Any] = (
        dict(reports[0].summary) if len(reports) == 1 else {r.name: dict(r.summary) for r in reports}
    )
    summary = {**content, "seconds": seconds, "run": str(run.path)}
    run.write_summary({key: value for key, value in summary.items() if key != "run"})
    console.log("")
    for path in (path for report in reports for path in report.written if path.suffix in (".csv", ".png")):
        console.log(f"Wrote {console.escape(str(path))}")
    for place, line in enumerate(following):
        console.log(("Next:  " if place == 0 else "       ") + console.escape(line))
    return summary


def run_study(
    config: C,
    invocation: Invocation,
    name: str,
    study: Callable[[C, Any], Report],
    following: Sequence[str] = (),
) -> dict[str, Any]:
    """The body of a command that makes one study: run it, write its report, return the summary."""
    started = time.perf_counter()
    with study_run(config, invocation, name) as (run, device):
        report = study(config, device)
        write_report(run, report)
        return finish(run, [report], started, following)
