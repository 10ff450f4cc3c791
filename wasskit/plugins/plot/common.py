"""What several commands do: open runs and name those that are not whole, say where figures are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wasskit import console
from wasskit.config import CommandOptions
from wasskit.errors import UserError
from wasskit.pictures.bars import Value
from wasskit.plugins.plot.groups import Group, group_runs
from wasskit.plugins.plot.metrics import monitored, values_of
from wasskit.plugins.plot.options import RunsArgument, WhichOptions
from wasskit.plugins.plot.runs import Run, read_runs

T = TypeVar("T")


def open_groups(config: RunsArgument) -> list[Group]:
    """The runs of the command line in groups; the unfinished and the damaged are named on stderr."""
    runs = read_runs(config.runs)
    for run in runs:
        name_trouble(run)
    return group_runs(runs, join=config.group, labels=config.labels)


def name_trouble(run: Run) -> None:
    """Say what is not whole about a run."""
    notes = [*([] if run.finished else [run.state]), *run.problems]
    if notes:
        console.warn(f"{run.path}: {'; '.join(notes)}.")


def choose_evaluation(config: WhichOptions, groups: Sequence[Group]) -> list[Mapping[str, Value]]:
    """The metrics of each group at the evaluation that ``--which`` and ``--by`` name."""
    by = monitored(groups, config.by) if config.which == "best" else None
    if by is not None:
        console.log(f"Best evaluation of each run by {by}.")
    return [values_of(group, config.which, by) for group in groups]


def read_each(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[str]]:
    """What can be read of several files, and a sentence on each that cannot."""
    found, troubles = [], []
    for path in paths:
        try:
            found.append(read(path))
        except UserError as error:
            troubles.append(str(error))
    return found, troubles


def say_figures(config: CommandOptions, figures: Sequence[Path], notes: Iterable[str] = ()) -> None:
    """Remarks on stderr, paths on stdout."""
    for note in notes:
        console.warn(note)
    if not config.json:
        for figure in figures:
            console.result(f"Figure: {console.escape(str(figure))}")


def described(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups for ``--json``."""
    return [
        {
            "label": group.label,
            "settings": dict(group.settings),
            "runs": [
                {"path": str(run.path), "seed": run.seed, "state": run.state, "problems": list(run.problems)}
                for run in group.runs
            ],
        }
        for group in groups
    ]
