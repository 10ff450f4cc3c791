"""Run directories: made once, opened anywhere, appended to, cut back to a checkpoint."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.harness import run_ranks
from wasskit.errors import UserError
from wasskit.training.run import MetricRow, RunDirectory, read_metrics


def create(path: Path, **changes: object) -> RunDirectory:
    settings = {"command": "mrl train", "options": {"lr": 0.1, "dims": (8, 16), "weights": None}, **changes}
    return RunDirectory.create(path, **settings)  # type: ignore[arg-type]


def test_what_a_killed_process_left_takes_no_directory(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run = tmp_path / "run"
    run.mkdir()
    (run / f".config.toml.{ended.pid}.tmp").write_text("command = ")
    assert create(run).path == run
    other = tmp_path / "other"
    other.mkdir()
    (other / f".config.toml.{os.getpid()}.tmp").write_text("command = ")
    with pytest.raises(UserError, match="other files"):
        create(other)


def test_created_files(tmp_path: Path) -> None:
    run = create(
        tmp_path / "runs" / "digits",
        paper={"source": "a paper", "metrics": {"top1": 80.29}},
        seed=4,
        device="cpu",
        argv=["mrl", "train", "--run-dir", "a b"],
    )
    assert (run.path / "metrics.csv").read_text() == "epoch,step,split,metric,value\n"
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["command_line"] == "wasskit mrl train --run-dir 'a b'"
    assert environment["seed"] == 4
    assert environment["device"]["type"] == "cpu"
    assert {"python", "torch", "wasskit"} <= set(environment["versions"])
    opened = RunDirectory.open(run.path)
    assert opened.command == "mrl train"
    assert opened.options == {"lr": 0.1, "dims": [8, 16]}
    assert opened.paper["metrics"]["top1"] == 80.29
    assert opened.summary is None


def test_config_is_a_recipe(tmp_path: Path) -> None:
    from wasskit.recipes import parse_recipe

    run = create(tmp_path / "r", paper={"source": "a paper"})
    recipe = parse_recipe("r", run.path / "config.toml")
    assert (recipe.command, recipe.options, recipe.paper) == (run.command, run.options, run.paper)


def test_taken_names(tmp_path: Path) -> None:
    path = tmp_path / "digits"
    taken = create(path)
    with pytest.raises(UserError, match="already holds a run without a checkpoint: start it over by --requeue"):
        create(path)
    taken.checkpoints.mkdir()
    (taken.checkpoints / "last.pt").write_bytes(b"")
    with pytest.raises(UserError, match=f"already holds a run: go on with it by --resume {path}"):
        create(path)
    with pytest.raises(UserError, match="already holds a run: choose another --run-dir"):
        create(path, resumable=False)
    with pytest.raises(UserError, match="already holds a run of `wasskit mrl train`: choose another --run-dir"):
        create(path, command="study fbc")
    assert [create(path, numbered=True).path.name for _ in range(2)] == ["digits-2", "digits-3"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        create(tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(UserError, match="Cannot write"):
        create(tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    assert create(tmp_path / "empty").path == tmp_path / "empty"


def test_metrics_are_appended_and_read(tmp_path: Path) -> None:
    run = create(tmp_path / "r")
    run.log(1, 10, "train", {"loss": 0.1 + 0.2, "lr": 1e-3})
    run.log(1, 10, "test", {"top1@64": 97.5, "bad": math.nan})
    assert (run.path / "metrics.csv").read_text().splitlines()[1] == "1,10,train,loss,0.30000000000000004"
    assert run.metrics("train") == [MetricRow(1, 10, "train", "loss", 0.1 + 0.2), MetricRow(1, 10, "train", "lr", 1e-3)]
    assert run.metrics(metric="top1@64")[0].value == 97.5
    assert math.isnan(run.metrics(metric="bad")[0].value)
    assert run.rows == RunDirectory.open(run.path).rows == 4


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    run = create(tmp_path / "r")
    run.log(1, 10, "train", {"loss": 0.5, "lr": 0.25})
    path = run.path / "metrics.csv"
    path.write_text(path.read_text()[:-3])
    assert [row.metric for row in read_metrics(path)] == ["loss"]
    assert read_metrics(tmp_path / "none.csv") == []


def test_metrics_are_cut_back(tmp_path: Path) -> None:
    run = create(tmp_path / "r")
    for step in (10, 20, 20, 30):
        run.log(1, step, "train", {"loss": step})
    run.keep_metrics(2, 20)
    assert [row.step for row in run.metrics()] == [10, 20]
    run.log(1, 40, "train", {"loss": 4.0})
    assert run.rows == 3
    run.keep_metrics(99, 20)
    assert [row.step for row in run.metrics()] == [10, 20]


def test_moved_elsewhere(tmp_path: Path) -> None:
    run = create(tmp_path / "here" / "r")
    run.log(1, 1, "train", {"loss": 1.0})
    run.write_summary({"steps": 1, "final": {"x": math.inf}})
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "previous.pt").write_text("")
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved, checkpoint = RunDirectory.find(tmp_path / "there" / "r" / "checkpoints" / "previous.pt", plugin="mrl")
    assert moved.path == tmp_path / "there" / "r"
    assert checkpoint == moved.checkpoints / "previous.pt"
    assert moved.has_checkpoint
    assert moved.metrics() == [MetricRow(1, 1, "train", "loss", 1.0)]
    assert moved.summary == {"command": "mrl train", "steps": 1, "final": {"x": None}}
    assert str(tmp_path / "here") not in "".join(p.read_text() for p in moved.path.glob("*.*"))


def test_refused_directories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.toml"):
        RunDirectory.open(tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        RunDirectory.find(tmp_path / "last.pt")
    run = create(tmp_path / "r")
    with pytest.raises(UserError, match="of `wasskit mrl train`, not of `wasskit ssl`"):
        RunDirectory.open(run.path, plugin="ssl")
    for text in ("command = ", "", "command = 3", 'command = "mrl train"\noptions = 3'):
        (run.path / "config.toml").write_text(text)
        with pytest.raises(UserError, match=r"config\.toml"):
            RunDirectory.open(run.path)


def test_damaged_records_are_named_and_do_not_stop_a_resume(tmp_path: Path) -> None:
    run = create(tmp_path / "r")
    for content in (b"1,2,train,loss,0.5\nx,2,train,loss,0.5\n", b"\xff\xfe\n"):
        (run.path / "metrics.csv").write_bytes(content)
        with pytest.raises(
            UserError,
            match=r"metrics\.csv is not a readable record of metrics: (it is damaged in line|byte 0 is not UTF-8)",
        ):
            run.metrics()
    for text in ("{", "[]"):
        (run.path / "environment.json").write_text(text)
        run.record_resume(argv=["mrl", "train", "--resume", "r"])
        assert len(run.environment["resumed"]) == 1


def test_a_name_that_is_no_text_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not valid UTF-8"):
        RunDirectory.create(
            tmp_path / "runs" / "mrl" / "r", command="mrl train", options={"data_root": "n\udcff"}, argv=[]
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_run_may_be_named_like_a_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path / "digits.pt")
    assert RunDirectory.find(run.path)[0].path == run.path


def test_resumes_are_recorded(tmp_path: Path) -> None:
    run = create(tmp_path / "r", seed=1)
    run.record_resume(seed=1, argv=["mrl", "train", "--resume", "r"])
    assert run.environment["seed"] == 1
    assert [entry["command_line"] for entry in run.environment["resumed"]] == ["wasskit mrl train --resume r"]


def test_reading_runs_needs_no_torch(tmp_path: Path) -> None:
    create(tmp_path / "r").log(1, 1, "train", {"loss": 1.0})
    code = (
        "import sys; from wasskit.training.run import RunDirectory; run = RunDirectory.open(sys.argv[1]);"
        "assert run.metrics() and run.figures and run.summary is None;"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=True)


def create_on_ranks(path: Path) -> tuple[str, str]:
    run = create(path, numbered=True)
    run.log(1, 1, "train", {"loss": 1.0})
    try:
        create(path)
    except UserError as error:
        return run.path.name, str(error)
    return run.path.name, "no error"


@pytest.mark.distributed
def test_ranks_share_one_directory(tmp_path: Path) -> None:
    create(tmp_path / "r")
    first, second = run_ranks(create_on_ranks, 2, tmp_path / "r")
    assert first == second
    assert first[0] == "r-2"
    assert "already holds a run" in first[1]
    assert len(read_metrics(tmp_path / "r-2" / "metrics.csv")) == 1


def test_a_file_in_the_place_of_a_run_directory_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "x.npy").touch()
    for named in (RunDirectory.open, RunDirectory.find):
        with pytest.raises(UserError, match=r"x\.npy is a file, not a run directory: name the folder"):
            named(tmp_path / "x.npy")
