"""A grid from its command line to its folder: its trainings, then their table, figure and summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.config import RecipeOptions, check_keys, display, fixed_keys, part, recipe_fields, to_options, values_of
from wasskit.distributed.launch import find_devices
from wasskit.errors import UserError
from wasskit.options import RunOptions, TrainingDeviceOptions
from wasskit.plugins.mrl.grid import NETWORKS, Axes, Subject, plan_points
from wasskit.plugins.mrl.results import collect, grid_report
from wasskit.report import finish
from wasskit.system.files import replace_text, writing
from wasskit.training.run import RunDirectory
from wasskit.training.schedule import Schedule, log_path


def open_folder(
    path: Path,
    command: str,
    config: RecipeOptions,
    argv: Sequence[str],
    paper: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """The folder of a grid, made or reopened."""
    if (path / "config.toml").is_file():
        folder = RunDirectory.open(path, plugin="mrl")
        if folder.command != command:
            raise UserError(
                f"{path} is of `wasskit {folder.command}`, not of `wasskit {command}`: choose another --run-dir."
            )
        return folder
    return RunDirectory.create(
        path, command=command, options=to_options(config), paper=paper, seed=part(config, RunOptions).seed, argv=argv
    )


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
    download: bool = False,
) -> Mapping[str, Any]:
    """Train a grid in ``--run-dir`` (or ``runs/mrl/<name>``), tabulate, draw and save it; what ``--json`` prints.

    Args:
        data: what is learned from, as tables name it.
        width: see :func:`wasskit.plugins.mrl.grid.plan_points`.
    """
    run = part(config, RunOptions)
    root = run.run_dir or Path("runs") / "mrl" / (run.name or default)
    points = plan_points(config, axes, width, subject)
    trainings = {name: training for point in points for name, training in point.trainings.items()}
    folder = open_folder(root, command, config, argv, paper)
    paper = paper or folder.paper
    console.log(f"{len(trainings)} trainings in {console.escape(str(root))}")
    with folder.claimed(alone=False):
        finished = find_finished(root, trainings, subject)
        # The grid may have grown since it was finished; settings that contradict its runs have been refused by now.
        folder.remove_summary()
        train_all(root, trainings, finished, subject, jobs=jobs, nproc=nproc, download=download)
        folder.reconfigure(to_options(config), paper)
        report = grid_report(data, command, collect(root, points), paper)
        result = {"run": str(root), "trainings": list(trainings), **finish(report, root)}
        folder.write_summary(result)
    return result


def train_all(
    root: Path,
    trainings: Mapping[str, RecipeOptions],
    finished: Collection[str],
    subject: Subject = NETWORKS,
    *,
    jobs: int = 1,
    nproc: int = 1,
    download: bool = False,
) -> None:
    """Train what is not finished, ``jobs`` at a time, by a `wasskit.training.schedule.Schedule`.

    Raises:
        RunFailed: a training failed; the others were finished first.
        Interrupted: a signal; the trainings were told to save their state.
    """
    share = nproc == 1 and part(next(iter(trainings.values())), TrainingDeviceOptions).device == "auto"
    Schedule(
        root,
        {
            name: _command(root, name, config, subject, nproc, download)
            for name, config in trainings.items()
            if name not in finished
        },
        done=len(finished),
        jobs=jobs,
        nproc=nproc,
        devices=[device.selector for device in find_devices()] if share else (),
    ).run()


def find_finished(root: Path, trainings: Mapping[str, RecipeOptions], subject: Subject = NETWORKS) -> list[str]:
    """The trainings that need no further one. Raises ``UserError`` where a run directory has other settings."""
    return [name for name, config in trainings.items() if _finished(root / name, config, subject.options)]


def _finished(path: Path, config: RecipeOptions, options: type[RecipeOptions]) -> bool:
    """Whether the run is there and complete; one with other settings is refused."""
    if not (path / "config.toml").is_file():
        return False
    run = RunDirectory.open(path, plugin="mrl")
    saved = check_keys(options, run.options, str(path / "config.toml"))
    fields, now = recipe_fields(options), values_of(config)
    differing = [
        f"{key} ({display(saved.get(key, fields[key].default))} there, {display(now[key])} now)"
        for key in sorted(fixed_keys(options))
        if saved.get(key, fields[key].default) != now[key]
    ]
    if differing:
        raise UserError(f"{path} was trained with other settings: {', '.join(differing)}. Choose another --run-dir.")
    return run.summary is not None


def _command(root: Path, name: str, config: RecipeOptions, subject: Subject, nproc: int, download: bool) -> list[str]:
    """The command line of a training; its recipe is written beside its log."""
    import tomli_w

    recipe = log_path(root, name).with_suffix(".toml")
    with writing(recipe):
        recipe.parent.mkdir(parents=True, exist_ok=True)
    replace_text(recipe, tomli_w.dumps({"command": subject.command, "options": to_options(config)}))
    return [
        sys.executable, "-m", "wasskit", *subject.command.split(),
        "--recipe", str(recipe), "--run-dir", str(root / name), "--requeue",
        "--quiet", "--nproc", str(nproc), *(["--download"] if download else []),
    ]  # fmt: skip
