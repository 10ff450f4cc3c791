"""A grid on a cluster: an array of its unfinished trainings, and a job that tabulates them when all have ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wasskit import console
from wasskit.cluster.job import Job
from wasskit.cluster.options import SubmitOptions
from wasskit.cluster.submit import dry_run, resources_of, submit, tell_submitted
from wasskit.config import values_of
from wasskit.sweeps.grid import Grid, GridReport
from wasskit.training.schedule import log_path


def make_grid(grid: Grid, options: SubmitOptions, report: GridReport, *, table_only: bool) -> Mapping[str, Any]:
    """Train a grid here or on a cluster, as ``options`` say, or tabulate what is finished; what ``--json`` prints."""
    if table_only:
        return grid.tabulate(report)
    return submit_grid(grid, options) if options.submit is not None else grid.run(report)


def submit_grid(grid: Grid, options: SubmitOptions) -> Mapping[str, Any]:
    """Submit what of a grid is not finished; what ``--json`` prints.

    On SLURM each training is a task of an array, ``jobs`` of them at a time where that is more than one; a last job
    makes the table when all have ended. A job of the kind ``local`` trains the whole grid.

    Raises:
        UserError: as `wasskit.cluster.submit.submit`; settings that contradict what the folder holds.
    """
    values = {**values_of(options), "nnodes": 1}
    if grid.nproc == 1 and options.gpus:
        grid = replace(grid, nproc=options.gpus)
    resources = resources_of(values, name=grid.command.replace(" ", "-"), run=grid.root, nproc=grid.nproc)
    if not options.dry_run:
        grid.prepare()
    words = [*grid.command.split(), "--recipe", str(grid.root / "config.toml"), "--run-dir", str(grid.root)]
    whole = Job([*words, "--jobs", str(grid.jobs), "--nproc-per-run", str(grid.nproc)])
    table = Job([*words, "--table-only"])
    finished = grid.finished()
    missing = [name for name in grid.trainings if name not in finished]
    trainings = [
        Job(grid.command_of(name, write=not options.dry_run)[3:], log_path(grid.root, name)) for name in missing
    ]
    first = [whole] if options.submit == "local" else trainings or [table]
    resources = replace(resources, parallel=grid.jobs if grid.jobs > 1 else None)
    if options.dry_run:
        return dry_run(resources, first, table if first is trainings else None)
    numbers = submit(resources, first)
    console.log(f"{len(missing)} of {len(grid.trainings)} trainings are to be made.")
    tell_submitted(resources, numbers, len(first))
    last: list[str] = []
    if first is trainings:
        array = numbers[0].partition("_")[0]
        after = {"dependency": f"afterany:{array}"}
        small = replace(
            resources, name=f"{resources.name}-table", nproc=1, gpus=None, sbatch={**resources.sbatch, **after}
        )
        last = submit(small, [table])
        console.result(f"Job {last[0]} makes the table when all have ended: {console.escape(str(grid.root))}")
    return {"run": str(grid.root), "trainings": missing, "jobs": [*numbers, *last], "logs": str(resources.folder)}
