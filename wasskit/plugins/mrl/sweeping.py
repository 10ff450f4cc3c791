"""A grid of trainings of one network, or of adaptors, from its command line to its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wasskit.cluster.options import SubmitOptions
from wasskit.config import Invocation, RecipeOptions, changed, part, to_options, values_of
from wasskit.options import RunOptions
from wasskit.plugins.mrl.grid import NETWORKS, Axes, Subject, parse_axes, plan_points
from wasskit.plugins.mrl.results import collect, grid_report
from wasskit.report import Report
from wasskit.sweeps.cluster import make_grid
from wasskit.sweeps.grid import Grid
from wasskit.sweeps.options import seed_axis

C = TypeVar("C", bound=RecipeOptions)


def whole_grid(config: C, subject: Subject = NETWORKS) -> tuple[C, Axes]:
    """A sweep whose option ``grid`` holds all axes, however they were given, and these."""
    values = values_of(config)
    grid = (*values["axes"], *values["grid"], *seed_axis(part(config, SubmitOptions).array))
    return changed(config, axes=(), grid=grid), parse_axes(grid, subject)


def run_grid(
    config: RecipeOptions,
    axes: Axes,
    invocation: Invocation,
    *,
    data: str,
    default: str,
    width: Callable[[Any], int],
    subject: Subject = NETWORKS,
) -> Mapping[str, Any]:
    """Train a grid in ``--run-dir`` (or ``runs/mrl/<name>``), tabulate, draw and save it; what ``--json`` prints.

    Args:
        data: what is measured on, as tables name it.
        default: the name of the folder where the user chose none.
        width: see :func:`wasskit.plugins.mrl.grid.plan_points`.
    """
    run, values = part(config, RunOptions), values_of(config)
    root = run.run_dir or Path("runs") / "mrl" / (run.name or default)

    def report(points: Sequence[Any], paper: Mapping[str, Any]) -> Report:
        return grid_report(data, invocation.command, collect(root, points), paper)

    grid = Grid(
        root=root, command=invocation.command, trains=subject.command, options=to_options(config),
        points=plan_points(config, axes, width, subject), argv=invocation.argv, jobs=values["jobs"],
        nproc=values["nproc_per_run"], base=config,
        paper=invocation.recipe.get("paper") if invocation.recipe else None,
    )  # fmt: skip
    return make_grid(grid, part(config, SubmitOptions), report, table_only=values["table_only"])
