"""A grid of ``mrl train`` from its command line to its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit.config import Invocation, to_options
from wasskit.plugins.mrl.grid import Axes, Point, plan_points
from wasskit.plugins.mrl.options import GridOptions
from wasskit.plugins.mrl.results import collect, grid_report
from wasskit.report import Report
from wasskit.sweeps.cluster import submit_grid
from wasskit.sweeps.grid import Grid


def run_grid(config: GridOptions, axes: Axes, invocation: Invocation, *, default: str) -> Mapping[str, Any]:
    """Train a grid in ``--run-dir`` (or ``runs/mrl/<name>``), tabulate, draw and save it; what ``--json`` prints.

    Args:
        default: the name of the folder where the user chose none.
    """
    from wasskit.plugins.mrl.task import backbone_width

    root = config.run.run_dir or Path("runs") / "mrl" / (config.run.name or default)

    def report(points: Sequence[Point[Any]], paper: Mapping[str, Any]) -> Report:
        return grid_report(config.data.dataset, invocation.command, collect(root, points), paper)

    grid = Grid(
        root=root,
        command=invocation.command,
        trains="mrl train",
        options=to_options(config),
        points=plan_points(config, axes, backbone_width),
        argv=invocation.argv,
        jobs=config.jobs,
        nproc=config.nproc_per_run,
        base=config,
        paper=invocation.recipe.get("paper") if invocation.recipe else None,
    )
    if config.table_only:
        return grid.tabulate(report)
    return submit_grid(grid, config.machine) if config.machine.submit is not None else grid.run(report)
