"""A grid from its command line to its folder: its trainings, then their table, figure and summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.config import RecipeOptions, differing, display, to_options, values_of
from wasskit.distributed.devices import find_devices
from wasskit.errors import RunFailed, UserError
from wasskit.report import Report, finish
from wasskit.sweeps.axes import Point
from wasskit.system.files import replace_text, write_text
from wasskit.training.run import RunDirectory
from wasskit.training.schedule import Schedule, last_line, log_path

GridReport = Callable[[Sequence[Point[Any]], Mapping[str, Any]], Report]
"""The report on combinations whose trainings are finished, beside the published figures."""


@dataclass(frozen=True)
class Grid:
    """The trainings of a grid, below one folder.

    Args:
        root: the folder.
        command: the command that makes it, e.g. ``"sweep"``.
        trains: the command of its trainings, e.g. ``"ssl byol"``.
        options: its configuration, as plain values; a recipe that repeats it.
        points: its combinations.
        argv: the command line after ``wasskit``.
        jobs: trainings at the same time.
        nproc: processes of each.
        base: what the trainings have in common; what of it is saved in no run (``--download``) they are told.
        paper: the published figures, where the recipe has them.
    """

    root: Path
    command: str
    trains: str
    options: Mapping[str, Any]
    points: Sequence[Point[Any]]
    argv: Sequence[str]
    jobs: int = 1
    nproc: int = 1
    base: RecipeOptions | None = None
    paper: Mapping[str, Any] | None = None
    trainings: Mapping[str, RecipeOptions] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: training for point in self.points for name, training in point.trainings.items()}
        object.__setattr__(self, "trainings", found)

    def run(self, report: GridReport) -> Mapping[str, Any]:
        """Train what is not finished, then tabulate, draw and save all; what ``--json`` prints.

        Raises:
            UserError: a run directory has other settings; another process has the folder.
            RunFailed: a training failed; the others were finished first.
            Interrupted: a signal; the trainings were told to save their state.
        """
        folder = self._open()
        console.log(f"{len(self.trainings)} trainings in {console.escape(str(self.root))}")
        with folder.claimed(alone=False):
            finished = self.finished()
            # The grid may have grown since it was finished; settings that contradict its runs have been refused by now.
            folder.remove_summary()
            self._train(finished)
            return self._conclude(folder, self.points, report)

    def tabulate(self, report: GridReport) -> Mapping[str, Any]:
        """Tabulate, draw and save what is finished, and train nothing.

        Raises:
            UserError: nothing is finished.
            RunFailed: some trainings are not, with the reason of the first.
        """
        folder = self._open()
        with folder.claimed(alone=False):
            finished = set(self.finished())
            points = [point for point in self.points if finished.issuperset(point.trainings)]
            if not points and finished == set():
                raise UserError(f"No training in {self.root} is finished yet{self._reason(finished)}.")
            folder.remove_summary()
            result = self._conclude(folder, points, report) if points else {}
        missing = len(self.trainings) - len(finished)
        if missing:
            folder.remove_summary()
            raise RunFailed(
                f"{missing} of {len(self.trainings)} trainings are not finished{self._reason(finished)}. The table "
                "shows the others; the same command goes on with these."
            )
        return result

    def prepare(self) -> None:
        """Make the folder, or take the one that is there, with the whole grid as its configuration."""
        folder = self._open()
        with folder.claimed(alone=False):
            folder.reconfigure(self.options, self.paper or folder.paper)

    def _reason(self, finished: set[str]) -> str:
        """What the first unfinished training said last; all of it goes to ``failed.json``."""
        failed = {}
        for name in self.trainings:
            log = log_path(self.root, name)
            if name not in finished and log.is_file() and RunDirectory(self.root / name, {}).claimant is None:
                failed[name] = last_line(log)
        if not failed:
            return ""
        replace_text(self.root / "failed.json", json.dumps(failed, indent=2) + "\n")
        name, reason = next(iter(failed.items()))
        return f", first {name}: {reason.rstrip('.')}"

    def _conclude(self, folder: RunDirectory, points: Sequence[Point[Any]], report: GridReport) -> Mapping[str, Any]:
        paper = self.paper or folder.paper
        folder.reconfigure(self.options, paper)
        result = {"run": str(self.root), "trainings": list(self.trainings), **finish(report(points, paper), self.root)}
        folder.write_summary(result)
        return result

    def _open(self) -> RunDirectory:
        """The folder, made or reopened."""
        if (self.root / "config.toml").is_file():
            folder = RunDirectory.open(self.root)
            if folder.command != self.command:
                raise UserError(
                    f"{self.root} is of `wasskit {folder.command}`, not of `wasskit {self.command}`: choose another "
                    "--run-dir."
                )
            return folder
        seed = None if self.base is None else values_of(self.base).get("seed")
        return RunDirectory.create(
            self.root, command=self.command, options=self.options, paper=self.paper, argv=self.argv, seed=seed
        )

    def finished(self) -> list[str]:
        """The trainings that need no further one. Raises ``UserError`` where a run directory has other settings."""
        return [name for name, config in self.trainings.items() if self._is_finished(self.root / name, config)]

    def _is_finished(self, path: Path, config: RecipeOptions) -> bool:
        """Whether the run is there and complete; one with other settings is refused."""
        if not (path / "config.toml").is_file():
            return False
        run = RunDirectory.open(path, plugin=self.trains.split()[0])
        if run.command != self.trains:
            raise UserError(f"{path} is a run of `wasskit {run.command}`: choose another --run-dir.")
        others = [
            f"{f.name} ({display(there)} there, {display(now)} now)"
            for f, there, now in differing(config, run.options, str(path / "config.toml"))
        ]
        if others:
            raise UserError(f"{path} was trained with other settings: {', '.join(others)}. Choose another --run-dir.")
        return run.summary is not None

    def _train(self, finished: Sequence[str]) -> None:
        devices = {values_of(config).get("device") for config in self.trainings.values()}
        share = self.nproc == 1 and devices == {"auto"}
        Schedule(
            self.root,
            {name: self.command_of(name) for name in self.trainings if name not in finished},
            done=len(finished),
            jobs=self.jobs,
            nproc=self.nproc,
            devices=[device.selector for device in find_devices()] if share else (),
        ).run()

    def command_of(self, name: str, *, write: bool = True) -> list[str]:
        """The command line of a training; its recipe is written beside its log."""
        recipe = log_path(self.root, name).with_suffix(".toml")
        if write:
            self._write_recipe(recipe, name)
        base = {} if self.base is None else values_of(self.base)
        unsaved = ["--download"] if base.get("download") else []
        if base.get("max_restarts"):
            unsaved += ["--max-restarts", str(base["max_restarts"])]
        return [
            sys.executable, "-m", "wasskit", *self.trains.split(),
            "--recipe", str(recipe), "--run-dir", str(self.root / name), "--requeue",
            "--quiet", "--nproc", str(self.nproc), *unsaved,
        ]  # fmt: skip

    def _write_recipe(self, path: Path, name: str) -> None:
        import tomli_w

        write_text(path, tomli_w.dumps({"command": self.trains, "options": to_options(self.trainings[name])}))
