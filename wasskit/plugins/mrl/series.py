"""A grid of trainings of one network, or of adaptors, from its command line to its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit.cluster.options import SubmitOptions
from wasskit.config import RecipeOptions, part, to_options, values_of
from wasskit.options import RunOptions
from wasskit.plugins.mrl.grid import NETWORKS, Axes, Subject, plan_points
from wasskit.plugins.mrl.results import collect, grid_report
from wasskit.report import Report
from wasskit.sweeps.cluster import submit_grid
from wasskit.sweeps.grid import Grid


def run_grid(
    config: RecipeOptions,
    axes: Axes,
    *,
    command: str,
    data: str,
    default: str,
    width: Callable[[Any], int],
    jobs: int,
    nproc: int,
    argv: Sequence[str],
    paper: Mapping[str, Any] | None = None,
    subject: Subject = NETWORKS,
) -> Mapping[str, Any]:
    """Train a grid in ``--run-dir`` (or ``runs/mrl/<name>``), tabulate, draw and save it; what ``--json`` prints.

    Args:
        data: what is measured on, as tables name it.
        default: the name of the folder where the user chose none.
        width: see :func:`wasskit.plugins.mrl.grid.plan_points`.
    """
    run, submit = part(config, RunOptions), part(config, SubmitOptions)
    root = run.run_dir or Path("runs") / "mrl" / (run.name or default)

    def report(points: Sequence[Any], paper: Mapping[str, Any]) -> Report:
        return grid_report(data, command, collect(root, points), paper)

    grid = Grid(
        root=root, command=command, trains=subject.command, options=to_options(config),
        points=plan_points(config, axes, width, subject), argv=argv, jobs=jobs, nproc=nproc, base=config, paper=paper,
    )  # fmt: skip
    if values_of(config)["table_only"]:
        return grid.tabulate(report)
    return submit_grid(grid, submit) if submit.submit is not None else grid.run(report)
