"""A study's run directory: its report, a summary, metrics for `wasskit plot`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wasskit import console
from wasskit.config import Invocation, to_options
from wasskit.errors import UserError
from wasskit.plugins.study.options import ReportOptions
from wasskit.report import Report, show, write
from wasskit.system.signals import Stopped
from wasskit.training.run import RunDirectory

C = TypeVar("C", bound=ReportOptions)


@contextlib.contextmanager
def study_run(config: ReportOptions, invocation: Invocation, name: str) -> Iterator[tuple[RunDirectory, Any]]:
    """A new run directory runs/study/<name>, numbered if taken, and the device to compute on.

    A request that is wrong, or withdrawn before there is a result, leaves nothing behind.
    """
    from wasskit.distributed.group import group

    with group(config.machine.device) as device:
        run = RunDirectory.create(
            config.folder.run_dir or Path("runs") / "study" / (config.folder.name or name), command=invocation.command,
            options=to_options(config), numbered=config.folder.run_dir is None and config.folder.name is None,
            paper=invocation.recipe.get("paper") if invocation.recipe else None,
            seed=config.seed, device=device, argv=invocation.argv,
            resumable=False,
        )  # fmt: skip
        console.log(f"Run directory: {console.escape(str(run.path))}")
        try:
            yield run, device
        except (UserError, KeyboardInterrupt, Stopped):
            run.remove_if_empty()
            raise


def write_report(run: RunDirectory, report: Report) -> list[Path]:
    """Write a report's files, figures (PNG and PDF) and metrics into a run directory, and print it."""
    written = write(report, run.path, suffixes=(".png", ".pdf"))
    for step, split, values in report.metrics:
        run.log(0, step, split, values)
    show(report)
    return written


def finish(
    run: RunDirectory, result: Mapping[str, Any], written: Sequence[Path], started: float, following: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``summary.json``, say where everything is, and return the summary."""
    summary = {**result, "seconds": round(time.perf_counter() - started, 1)}
    run.write_summary(summary)
    console.log("")
    for path in (path for path in written if path.suffix in (".csv", ".png")):
        console.log(f"Wrote {console.escape(str(path))}")
    for place, line in enumerate(following):
        console.log(("Next:  " if place == 0 else "       ") + console.escape(line))
    return {**summary, "run": str(run.path)}


def run_study(
    config: C, invocation: Invocation, name: str, study: Callable[[C, Any], Report], following: Sequence[str] = ()
) -> dict[str, Any]:
    """The body of a command that makes one study: run it, write its report, return the summary."""
    started = time.perf_counter()
    with study_run(config, invocation, name) as (run, device):
        report = study(config, device)
        return finish(run, report.result, write_report(run, report), started, following)
