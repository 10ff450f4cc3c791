"""Trackers, read back by their own readers; what fails ends no training."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from wasskit.training.run import RunDirectory
from wasskit.training.trackers import TRACKERS, EventWriter, Trackers


def run_at(folder: Path) -> RunDirectory:
    return RunDirectory.create(folder, command="mrl train", options={"lr": 0.1, "dims": [2, 4], "seed": 3})


def track(run: RunDirectory, name: str, *, first_step: int = 0, steps: range = range(1, 4)) -> list[str]:
    """Record a loss of half the step, and an accuracy with a name that not every tracker takes."""
    said: list[str] = []
    trackers = Trackers(run, [name], said.append)
    trackers.start(first_step)
    for step in steps:
        trackers.scalars(step, {"train/loss": step / 2, "test/top1@64": 90.0})
    trackers.close()
    return said


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    first = EventWriter(tmp_path)
    for step in (1, 2, 3, 300):
        first.scalars(step, {"train/loss": step / 2, "test/top1@64": math.inf if step == 3 else 1e300})
    first.close()
    resumed = EventWriter(tmp_path, first_step=3)
    resumed.scalars(3, {"train/loss": 7.0})
    resumed.close()
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 0.5), (2, 1.0), (3, 7.0)]
    assert [event.value for event in read.Scalars("test/top1@64")] == [math.inf, math.inf]


@pytest.mark.slow
def test_mlflow_reads_one_run_over_its_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    run = run_at(tmp_path / "run")
    assert track(run, "mlflow") == []
    assert track(run, "mlflow", first_step=3, steps=range(3, 5)) == []
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("wasskit").experiment_id])
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params["lr"] == "0.1"
    assert found.data.tags["command"] == "mrl train"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.5), (2, 1.0), (3, 1.5), (3, 1.5), (4, 2.0)]
    assert found.data.metrics["test/top1_at_64"] == 90.0


@pytest.mark.slow
def test_wandb_writes_one_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = run_at(tmp_path / "run")
    for first_step in (0, 3):  # its service lives as long as a process, so each start is one
        code = (
            "from pathlib import Path; from wasskit.training.run import RunDirectory\n"
            "from wasskit.training.trackers import Trackers\n"
            f"trackers = Trackers(RunDirectory.open(Path({str(run.path)!r})), ['wandb'], print)\n"
            f"trackers.start({first_step}); trackers.scalars({first_step}, {{'test/top1@64': 90.0}}); trackers.close()"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == ""
    records = list(run.path.glob("wandb/offline-run-*/*.wandb"))
    assert len(records) == 2
    assert len({path.stem for path in records}) == 1, "a resumed run has the key of the run"
    assert all(b"test/top1@64" in path.read_bytes() for path in records)


@pytest.mark.slow
def test_trackio_keeps_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    run = run_at(tmp_path / "run")
    assert track(run, "trackio") == []
    assert capsys.readouterr().out == "", "what a tracker prints is not the command's result"
    (store,) = (tmp_path / "store").rglob("*.db")
    with sqlite3.connect(store) as connection:
        steps = [step for (step,) in connection.execute("select step from metrics order by step")]
    assert steps == [1, 2, 3]


class Failing:
    """Works for one step."""

    key = "failing"

    def __init__(self, run: RunDirectory, known: str | None) -> None:
        self.known = known

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step > 1:
            raise ConnectionError("the server is gone\nand a page of HTML")

    def close(self) -> None:
        raise ConnectionError("still gone")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "failing", Failing)


@pytest.mark.usefixtures("failing")
def test_a_tracker_that_fails_is_left_out_and_named_once(tmp_path: Path) -> None:
    said = track(run_at(tmp_path / "run"), "failing", steps=range(1, 6))
    assert said == ["failing cannot be written (ConnectionError: the server is gone); going on without it"]


@pytest.mark.usefixtures("failing")
def test_keys_are_kept_for_a_resumed_run_alone(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    track(run, "failing", steps=range(1, 2))
    for first_step, known in ((0, None), (2, "failing")):
        trackers = Trackers(run, ["failing"], lambda text: None)
        trackers.start(first_step)
        assert trackers._open["failing"].known == known  # type: ignore[attr-defined]
    (run.path / "tracking.json").write_text("{", encoding="utf-8")
    trackers = Trackers(run, ["failing"], lambda text: None)
    trackers.start(2)
    assert trackers._open["failing"].known is None  # type: ignore[attr-defined]


def test_a_missing_tracker_is_refused_before_anything_is_made(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run_cli("mrl", "train", "--track", "wandb", "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert "pip install 'wasskit[wandb]'" in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()
