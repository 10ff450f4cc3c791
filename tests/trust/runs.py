"""What a run left behind, and whether another run left the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.trust.commands import Training
from tests.trust.server import Command, Server
from wasskit.training.run import read_metrics

TIMES = ("wall_seconds", "samples_per_second", "waiting_share", "seconds")
"""Entries of a summary that differ from run to run."""


def reference(server: Server, references: Path, training: Training, nproc: int = 1) -> Path:
    """The run directory of a training that nothing interrupts, made once."""
    folder = references / f"{training.name}-{nproc}"
    if not (folder / "done").is_file():
        folder.mkdir()
        command = server.run(training.on(folder / "run", nproc), folder)
        assert command.code == 0, explain(training.name, command)
        assert losses(folder / "run")[-1][0] == training.steps, "the declaration of this training is wrong"
        assert written_after_summary(folder / "run") == []
        (folder / "done").touch()
    return folder / "run"


def written_after_summary(run: Path) -> list[str]:
    """Figures and tables younger than the summary beside them: a kill in between would leave a finished run without."""
    late = []
    for summary in run.rglob("summary.json"):
        results = [*summary.parent.glob("*.csv"), *summary.parent.glob("figures/*")]
        late += [str(path.relative_to(run)) for path in results if path.stat().st_mtime_ns > summary.stat().st_mtime_ns]
    return late


def checkpoints(run: Path) -> dict[str, Any]:
    """Every ``last.pt`` below a run, without its clock."""
    found = {}
    for path in sorted(run.rglob("last.pt")):
        content = torch.load(path, weights_only=True)
        content["state"].pop("clock")
        found[str(path.relative_to(run))] = content
    return found


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two nested contents differ, to the bit."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [found for key in a for found in differences(a[key], b[key], f"{at}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, (x, y) in pairs for found in differences(x, y, f"{at}/{i}")]
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return [] if same and torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) else [at]
    return [] if a == b or (a != a and b != b) else [f"{at}: {a!r} and {b!r}"]


def summaries(run: Path) -> dict[str, Any]:
    """Every ``summary.json`` below a run, without times and paths."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items() if key.removeprefix("run/") not in TIMES}
        if isinstance(value, list):
            return [clean(entry) for entry in value]
        return value.replace(str(run), "RUN") if isinstance(value, str) else value

    found = sorted(run.rglob("summary.json"))
    return {str(path.relative_to(run)): clean(json.loads(path.read_text())) for path in found}


def tables(run: Path) -> dict[str, str]:
    """Every table below a run, without rows of times."""

    def clean(path: Path) -> str:
        lines = path.read_text().splitlines()
        return "\n".join(line for line in lines if not any(f"run/{name}," in line for name in TIMES))

    return {str(path.relative_to(run)): clean(path) for path in sorted(run.rglob("*.csv"))}


def files(run: Path) -> set[str]:
    """The files of a run, by name."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def leftovers(run: Path) -> list[str]:
    return sorted(name for name in files(run) if name.endswith(".tmp"))


def assert_same(run: Path, whole: Path) -> None:
    """The run is the one that nothing interrupted: weights, states, random numbers, every metric, every summary."""
    assert leftovers(run) == []
    assert differences(checkpoints(run), checkpoints(whole)) == []
    assert tables(run) == tables(whole)
    assert differences(summaries(run), summaries(whole)) == []
    lost = {name for name in files(whole) - files(run) if not name.endswith((".pt", ".log"))}
    assert lost == set()


def steps_saved(run: Path) -> dict[str, int]:
    """The step of every ``last.pt`` below a run; each must be readable at any moment."""
    return {name: int(content["state"]["step"]) for name, content in checkpoints(run).items()}


def steps_logged(run: Path) -> dict[str, int]:
    """The last recorded step of every training below a run."""
    found = {}
    for path in run.rglob("metrics.csv"):
        rows = read_metrics(path)
        if rows:
            found[str(path.relative_to(run).parent / "checkpoints" / "last.pt")] = max(row.step for row in rows)
    return found


def losses(run: Path) -> list[tuple[int, float]]:
    """The loss of each step of the first training of a run."""
    path = min(run.rglob("metrics.csv"), key=lambda path: (len(read_metrics(path)) == 0, str(path)))
    return [(row.step, row.value) for row in read_metrics(path) if (row.split, row.metric) == ("train", "loss")]


def again(training: Training, run: Path, nproc: int = 1) -> list[str]:
    """The command line that goes on with a run, or starts it."""
    # A sweep always goes on.
    return [*training.on(run, nproc), *(["--requeue"] if training.command != "sweep" else [])]


def explain(seed: Any, command: Command) -> str:
    """What repeats a trial."""
    return f"seed {seed!r}: wasskit {' '.join(command.argv)}\n{command.said}"


def copy(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to
