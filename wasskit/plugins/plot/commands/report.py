"""``wasskit plot report``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, option
from wasskit.options import OverwriteOptions, RunArgument


@dataclass(frozen=True, kw_only=True)
class PlotReport(CommandOptions):
    """Options of ``wasskit plot report``."""

    source: RunArgument
    files: OverwriteOptions = OverwriteOptions()
    output: Path | None = option(
        None, help="File to write.", panel="Output", short="-o", show_default="RUN/report.html"
    )
    smooth: float = option(
        0.0, help="Exponential smoothing of curves: the weight of the past.", panel="Axes", min=0, below=1
    )
    title: str | None = option(None, help="Title of the page.", panel="Output", show_default="the run's name")


def body(config: PlotReport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.plugins.plot.groups import warn_of_problems
    from wasskit.plugins.plot.page import write_report
    from wasskit.plugins.plot.runs import read_runs

    runs = read_runs([config.source.run])
    if len(runs) > 1:
        raise UserError(
            f"{config.source.run} holds {len(runs)} runs ({runs[0].path}, ...): a report is on one; several are drawn "
            "by `wasskit plot compare`."
        )
    run = runs[0]
    warn_of_problems(run)
    path = config.output or run.path / "report.html"
    if path.is_dir():
        path = path / f"{run.name}.html"
    if config.output is not None:
        config.files.refuse_existing(path)
    notes = write_report(run, path, smooth=config.smooth, title=config.title)
    for note in notes:
        console.warn(note)
    size = path.stat().st_size
    if not config.json:
        console.result(f"Report: {console.escape(str(path))} ({size / 1e6:.1f} MB)")
    return {"report": str(path), "bytes": size, "state": run.state, "problems": [*run.problems, *notes]}


command = Command(
    "plot report",
    PlotReport,
    body,
    "Write one self-contained HTML page on a run.\n\n"
    "Metrics with the published figures, curves, tables of results, what the run has drawn, its configuration and its "
    "environment. The page needs no network and no other file: mail it, print it, read it on a phone.",
    ("wasskit plot report runs/mrl/digits", "wasskit plot report runs/ssl/byol -o byol.html"),
)
