"""Runs and files of the command line, opened; what is not whole about them is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from wasskit import console
from wasskit.errors import UserError
from wasskit.plugins.plot.groups import Group, group_runs
from wasskit.plugins.plot.options import RunsArgument
from wasskit.plugins.plot.runs import Run, read_runs

T = TypeVar("T")


def open_groups(config: RunsArgument) -> list[Group]:
    """The runs of the command line in groups; the unfinished and the damaged are named on stderr."""
    runs = read_runs(config.runs)
    for run in runs:
        warn_of_problems(run)
    return group_runs(runs, join=config.group, labels=config.labels)


def warn_of_problems(run: Run) -> None:
    """Say what is not whole about a run."""
    notes = [*([] if run.finished else [run.state]), *run.problems]
    if notes:
        console.warn(f"{run.path}: {'; '.join(notes)}.")


def read_each(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[str]]:
    """What can be read of several files, and a sentence on each that cannot."""
    found, troubles = [], []
    for path in paths:
        try:
            found.append(read(path))
        except UserError as error:
            troubles.append(str(error))
    return found, troubles
