"""``wasskit plot results``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.options import OverwriteOptions


@dataclass(frozen=True, kw_only=True)
class PlotResults(CommandOptions):
    """Options of ``wasskit plot results``."""

    files: OverwriteOptions = OverwriteOptions()
    plan: Path = argument(
        help="Plan of the page (TOML): its tables, with the runs of each.",
        complete=complete_local_paths, metavar="PLAN",
    )  # fmt: skip
    runs: Path = option(Path("runs"), help="Folder of the runs that the plan names.", panel="Runs")
    output: Path = option(Path("RESULTS.md"), help="File to write.", panel="Output", short="-o")
    keep: Path | None = option(
        None, help="Folder to copy the tables' files to, small enough to be kept: --runs of a later page.",
        panel="Output", show_default="nothing is copied",
    )  # fmt: skip


def body(config: PlotResults, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.plugins.plot.results import read_plan, results_report
    from wasskit.report import show
    from wasskit.system.files import write_text

    config.files.refuse_existing(config.output)
    if not config.runs.is_dir():
        raise UserError(f"--runs: there is no folder {config.runs}.")
    report = results_report(read_plan(config.plan), config.runs, config.keep)
    show(report)
    write_text(config.output, str(report.files["results"]))
    if not config.json:
        console.result(f"Results: {console.escape(str(config.output))}")
    return {**report.result, "output": str(config.output)}


command = Command(
    "plot results",
    PlotResults,
    body,
    "Write one page with the results of many runs.\n\n"
    "A plan lists tables: title, text, the command that repeats it, and patterns of run directories (`runs`) or of CSV "
    "files (`files`). Each table has mean and deviation over seeds, the published figures of the recipe beside, the "
    "machine, versions and dates; a table whose runs are not there says what it needs.",
    (
        "wasskit plot results docs/results.toml --overwrite",
        "wasskit plot results mine.toml --runs /data/runs -o mine.md",
    ),
)
