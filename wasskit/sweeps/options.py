"""Options of commands that train many times. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from wasskit.cluster.request import seeds_of
from wasskit.config import OptionGroup, option


@dataclass(frozen=True, kw_only=True)
class JobOptions(OptionGroup):
    """How many trainings at a time, and whether any."""

    jobs: int = option(1, help="Trainings at the same time.", panel="Machine", min=1, runtime=True)
    nproc_per_run: int = option(1, help="Processes of each training.", panel="Machine", min=1, runtime=True)
    table_only: bool = option(
        False, help="Train nothing: tabulate what is finished.", panel="Run", transient=True, flag="--table-only"
    )


def seed_axis(array: str | None) -> tuple[str, ...]:
    """The axis that ``--array`` stands for, if any. Raises ``UserError`` where it names no seeds."""
    return (f"seed={','.join(map(str, seeds_of(array)))}",) if array else ()
