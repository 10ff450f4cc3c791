"""Runs as their files tell them, read as far as they go.

Nothing here refuses a run because it is unfinished or damaged. What is missing is left out and named in
:attr:`Run.problems`; only a path that holds no run at all is an error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wasskit.errors import UserError
from wasskit.system.documents import read_json, read_toml
from wasskit.system.readers import UnreadableFile
from wasskit.text import counted
from wasskit.training.metrics_csv import MetricRow, salvage_metrics
from wasskit.training.series import evaluation_values, final_values, is_finite_number, over_steps, steps_per_epoch

_FILES = ("config.toml", "metrics.csv", "summary.json")


@dataclass(frozen=True)
class Run:
    """One run directory, as far as it can be read."""

    path: Path
    command: str
    options: Mapping[str, Any]
    paper: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    rows: Sequence[MetricRow]
    measured: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def seed(self) -> Any:
        return self.options.get("seed", self.environment.get("seed"))

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def monitor(self) -> str | None:
        """The metric that the run chose its best checkpoint by."""
        best = (self.summary or {}).get("best")
        return str(best["metric"]) if isinstance(best, Mapping) and "metric" in best else None

    @property
    def state(self) -> str:
        """``finished``, or how far the run has come and when it last wrote."""
        if self.finished:
            return "finished"
        if not self.rows:
            return "unfinished, nothing recorded yet"
        step = max(row.step for row in self.rows)
        epoch = max(row.epoch for row in self.rows)
        epochs, steps = self.options.get("epochs"), self.options.get("steps")
        of_epochs = f"epoch {epoch} of {epochs}, " if isinstance(epochs, int) else ""
        of_steps = f" of {steps}" if isinstance(steps, int) and not of_epochs else ""
        reached = f"{of_epochs}step {step}{of_steps}"
        return f"unfinished, at {reached}, last written {_age(self.path / 'metrics.csv')} ago"

    @cached_property
    def series(self) -> Mapping[str, Mapping[int, float]]:
        """Each metric, named ``split/metric``, as finite values over the steps. Later rows replace earlier ones."""
        return over_steps(self.rows)

    @cached_property
    def steps_per_epoch(self) -> float | None:
        """From the evaluations, which happen at whole epochs; else from the summary."""
        found = steps_per_epoch(self.rows)
        if found is not None:
            return found
        summary = self.summary or {}
        steps, epochs = summary.get("steps"), summary.get("epochs")
        return steps / epochs if isinstance(steps, int | float) and epochs else None

    def final(self) -> dict[str, float]:
        """The last finite value of each metric, what was measured after training, time and rate as ``run/...``."""
        values = final_values(self.series, self.measured)
        summary = self.summary or {}
        recorded = summary.get("final")
        if isinstance(recorded, Mapping):
            for key, value in recorded.items():
                if is_finite_number(value):
                    values.setdefault(str(key), float(value))
        for key in ("wall_seconds", "samples_per_second"):
            if is_finite_number(summary.get(key)):
                values[f"run/{key}"] = float(summary[key])
        return values

    def best(self, by: str, order: str) -> dict[str, float]:
        """All metrics at the step where ``by`` was best (``order``: max or min); empty if it was never measured."""
        entries = self.series.get(by)
        if not entries:
            return {}
        step = (max if order == "max" else min)(entries, key=lambda s: entries[s])
        return {key: values[step] for key, values in self.series.items() if step in values}


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs at ``paths``; a folder that is no run itself stands for those below it.

    Raises:
        UserError: a path is not there, or there is no run in it.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no run directory {path}.")
        if not path.is_dir():
            raise UserError(f"{path} is a file: give the run directory that it belongs to.")
        folders = _runs_in(path)
        if not folders:
            raise UserError(
                f"{path} holds no run: neither it nor a folder below it has a config.toml or a metrics.csv."
            )
        for folder in folders:
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())


def is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _FILES)


def _runs_in(path: Path) -> list[Path]:
    """The run at ``path`` or, where that has recorded nothing itself (a sweep, any folder), those below it."""
    if is_run(path) and _read_metrics(path / "metrics.csv")[0]:
        return [path]
    below = [
        run
        for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        # A link leads to another name of a run, or around in a circle.
        if not folder.is_symlink()
        for run in _runs_in(folder)
    ]
    return below or ([path] if is_run(path) else [])


def read_run(path: Path) -> Run:
    """Read what there is of one run."""
    problems: list[str] = []
    document: Mapping[str, Any] = {}
    if (path / "config.toml").is_file():
        try:
            document = read_toml(path / "config.toml")
        except UserError as error:
            problems.append(str(error).rstrip("."))
    else:
        problems.append("it has no config.toml")
    rows, unreadable = _read_metrics(path / "metrics.csv")
    if rows is None:
        problems.append("it has no metrics.csv")
    elif unreadable:
        problems.append(f"{counted(unreadable, 'line')} of metrics.csv cannot be read")
    rows = rows or []
    gone = sorted({f"{row.split}/{row.metric}" for row in rows if not math.isfinite(row.value)})
    if gone:
        problems.append(
            "values that are not finite are left out of " + ", ".join(gone[:4]) + (" ..." if gone[4:] else "")
        )
    summary = _read_json(path / "summary.json", problems)
    if summary is not None and rows and is_finite_number(summary.get("steps")) and rows[-1].step > summary["steps"]:
        summary = None  # of an earlier, shorter training that has since been resumed
    options = document.get("options", {})
    return Run(
        path=path,
        command=str(document.get("command", (summary or {}).get("command", ""))),
        options=options if isinstance(options, Mapping) else {},
        paper=_paper(document, summary),
        environment=_read_json(path / "environment.json", problems) or {},
        summary=summary,
        rows=rows,
        measured=evaluation_values(_read_json(path / "evaluation.json", problems), options),
        problems=tuple(problems),
    )


def _read_metrics(path: Path) -> tuple[list[MetricRow] | None, int]:
    """The rows that can be read, and how many cannot; None where there is no such file, or none that is text."""
    try:
        return salvage_metrics(path)
    except UnreadableFile:
        return None, 0


def _read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except UnreadableFile:
        content = None
    if not isinstance(content, dict):
        problems.append(f"{path.name} cannot be read")
        return None
    return content


def _paper(document: Mapping[str, Any], summary: Mapping[str, Any] | None) -> Mapping[str, Any]:
    paper = document.get("paper") or (summary or {}).get("paper") or {}
    if not isinstance(paper, Mapping):
        return {}
    metrics = paper.get("metrics", {})
    if not isinstance(metrics, Mapping):
        return {key: value for key, value in paper.items() if key != "metrics"}
    # The recipe of a grid has a table of figures for each of its settings; they are of no one run.
    numbers = {key: value for key, value in metrics.items() if is_finite_number(value)}
    return {**paper, "metrics": numbers}


def _age(path: Path) -> str:
    try:
        seconds = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return "an unknown time"
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")
