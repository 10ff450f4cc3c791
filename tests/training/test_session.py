"""A training command's session: what it leaves behind, how it goes on. Through the real command, on digits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trust.server import Command, Server
from wasskit.config import differing, to_options
from wasskit.errors import Interrupted, UserError
from wasskit.options import RunOptions, TrainingDeviceOptions
from wasskit.ot.precision import full_precision
from wasskit.plugins.mrl.adapt.options import AdaptOptions, AdaptTrainingOptions
from wasskit.training.checkpoint import load_checkpoint, save_checkpoint
from wasskit.training.run import RunDirectory
from wasskit.training.session import _find_checkpoint, saved_config, tuned

QUICK = ("--epochs", "2", "--no-tensorboard", "--batch-size", "256")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_wrong_request_leaves_no_run_directory(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    result = run_cli("mrl", "train", "--batch-size", "5000")
    assert result.exit_code == 2
    assert "5000" in result.stderr
    assert "Run directory" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_was_there_before_a_wrong_request_stays(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert run_cli("mrl", "train", "--batch-size", "5000").exit_code == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_gpu_is_set_up_for_the_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, benchmark = torch.device("cuda"), torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    for tf32, within in ((True, "high"), (False, "highest")):
        with tuned(cuda, TrainingDeviceOptions(tf32=tf32, precision="bf16")):
            assert torch.backends.cudnn.benchmark
            assert torch.get_float32_matmul_precision() == within
            with full_precision(torch.ones(1)):
                pass
            assert torch.get_float32_matmul_precision() == within
        assert torch.backends.cudnn.benchmark is benchmark
        assert torch.get_float32_matmul_precision() == "highest"
    with tuned(torch.device("cpu"), TrainingDeviceOptions(tf32=True)):
        assert torch.backends.cudnn.benchmark is benchmark
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("capability", "precision", "warned"), [((7, 5), "bf16", 1), ((7, 5), "fp16", 0), ((8, 0), "bf16", 0)]
)
def test_emulated_bf16_is_warned_of(
    capability: tuple[int, int], precision: Any, warned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("wasskit.console.warn", said.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    with tuned(torch.device("cuda"), TrainingDeviceOptions(precision=precision)):
        pass
    assert [line for line in said if "Tesla T4" in line and "--precision fp16" in line] == said
    assert len(said) == warned


@pytest.mark.slow
def test_automatic_names_are_numbered_and_chosen_ones_are_not_overwritten(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    for expected in ("digits", "digits-2"):
        assert run_cli("mrl", "train", *QUICK).exit_code == 0
        assert (tmp_path / "runs" / "mrl" / expected / "summary.json").is_file()
    before = (tmp_path / "runs/mrl/digits/metrics.csv").read_bytes()
    taken = run_cli("mrl", "train", *QUICK, "--run-dir", "runs/mrl/digits")
    assert taken.exit_code == 2
    assert "already holds a run" in words(taken.stderr)
    assert (tmp_path / "runs/mrl/digits/metrics.csv").read_bytes() == before

    other = run_cli("mrl", "train", "--resume", "runs/mrl/digits", "--lr", "0.3", "--epochs", "2")
    assert other.exit_code == 2
    assert "--lr 0.3" in words(other.stderr)
    assert "--epochs" not in words(other.stderr)

    both = run_cli("mrl", "train", "--resume", "runs/mrl/digits", "--run-dir", "runs/mrl/digits-2")
    assert both.exit_code == 2
    assert "name different runs" in words(both.stderr)


@pytest.mark.slow
def test_runs_older_than_an_option_go_on(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    """What a run did without the option is what the option's default stands for."""
    argv = ("mrl", "train", *QUICK, "--run-dir", "r", "--beta", "0.2")
    assert run_cli(*argv).exit_code == 0
    checkpoint, recorded = tmp_path / "r" / "checkpoints" / "last.pt", tmp_path / "r" / "config.toml"

    def forget(key: str) -> None:
        content = load_checkpoint(checkpoint)
        del content["config"][key]
        save_checkpoint(checkpoint, content)
        lines = recorded.read_text().splitlines(keepends=True)
        recorded.write_text("".join(line for line in lines if not line.startswith(f"{key} = ")))

    forget("label_smoothing")
    again = run_cli("mrl", "train", "--resume", "r")
    assert again.exit_code == 0, again.stderr
    forget("beta")
    other = run_cli(*argv, "--resume", "r")
    assert other.exit_code == 2
    assert "--beta 0.2" in words(other.stderr)


def test_a_checkpoint_older_than_an_option_stands_for_what_runs_did_then() -> None:
    """``centre`` came with a default that is not what runs did before it."""
    before = saved_config(AdaptOptions(adaptor=AdaptTrainingOptions(centre=0.0)))
    older = {key: value for key, value in before.values.items() if key != "centre"}
    before.check(older, "last.pt")
    with pytest.raises(UserError, match="centre"):
        saved_config(AdaptOptions()).check(older, "last.pt")


def test_a_requeued_job_goes_on_from_what_it_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "r", command="mrl train", options={})
    run.checkpoints.mkdir()
    last, previous, best = (run.checkpoints / f"{name}.pt" for name in ("last", "previous", "best"))
    for path in (last, previous, best):
        path.touch()
    for word, named in ((str(best), best), ("previous", previous)):
        argv = ("mrl", "train", "--run-dir", str(run.path), "--resume", word, "--requeue")
        options = RunOptions(run_dir=run.path, resume=word, requeue=True)

        def found(argv: tuple[str, ...] = argv, options: RunOptions = options) -> Path | None:
            place = _find_checkpoint(options, run.path, False, argv)
            return None if place is None else place[1]

        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        assert found() == named
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert found() == named, "requeued before it had begun"
        run.record_resume(argv=argv)
        assert found() == last


@pytest.mark.parametrize("saved", [False, True])
def test_ranks_that_are_started_again_go_on_with_their_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """By torchrun, which does not know where it lies; not with an older one of its name that had come further."""
    chosen = tmp_path / "train"
    for age, path in ((60, chosen), (0, tmp_path / "train-2")):
        run = RunDirectory.create(path, command="mrl train", options={})
        os.utime(path / "config.toml", (time.time() - age,) * 2)
        if age or saved:
            run.checkpoints.mkdir()
            (run.checkpoints / "last.pt").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    found = _find_checkpoint(RunOptions(), chosen, True, ("mrl", "train"))
    assert found == (run.path, run.checkpoints / "last.pt" if saved else None)


def test_a_grid_refuses_runs_older_than_an_option_that_did_otherwise() -> None:
    """Its finished runs would else be taken for runs with the default of today."""
    older = {key: value for key, value in to_options(AdaptOptions()).items() if key != "centre"}
    found = [(f.name, there, now) for f, there, now in differing(AdaptOptions(), older, "config.toml")]
    assert found == [("centre", 0.0, 0.5)]
    as_before = AdaptOptions(adaptor=AdaptTrainingOptions(centre=0.0))
    assert differing(as_before, older, "config.toml") == []


def test_there_must_be_something_to_resume(run_cli: Callable[..., Any], words: Callable[[str], str]) -> None:
    result = run_cli("mrl", "train", "--resume")
    assert result.exit_code == 2
    assert "nothing to resume" in words(result.stderr)


@pytest.mark.slow
def test_a_requeued_run_starts_when_there_is_nothing_and_goes_on_when_there_is(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    argv = ("mrl", "train", *QUICK, "--run-dir", tmp_path / "r", "--requeue")
    assert run_cli(*argv).exit_code == 0
    metrics = (tmp_path / "r" / "metrics.csv").read_bytes()
    again = run_cli(*argv)
    assert again.exit_code == 0
    assert "Resuming" in again.stderr
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == metrics


@pytest.mark.slow
def test_a_requeued_run_that_never_saved_starts_over(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    argv = ("mrl", "train", *QUICK, "--run-dir", tmp_path / "r", "--requeue")
    assert run_cli(*argv).exit_code == 0
    whole = (tmp_path / "r" / "metrics.csv").read_bytes()
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        path.unlink()
    assert run_cli(*argv).exit_code == 0
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == whole


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted(signal.SIGTERM, "Stopped before its first step.")])
def test_a_request_withdrawn_before_the_first_step_leaves_nothing(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("wasskit.plugins.mrl.task.build_task", stopped)
    result = run_cli("mrl", "train", *QUICK, "--run-dir", "r")
    assert result.exit_code == (130 if isinstance(stop, KeyboardInterrupt) else 143)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_run_without_a_checkpoint_says_how_to_start_over(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    assert run_cli("mrl", "train", *QUICK, "--run-dir", "r").exit_code == 0
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        path.unlink()
    for argv in ((), ("--resume",)):
        result = run_cli("mrl", "train", *QUICK, "--run-dir", "r", *argv)
        assert result.exit_code == 2
        assert "--requeue" in words(result.stderr)


@pytest.mark.slow
def test_two_processes_never_train_in_one_directory(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    argv = ("mrl", "train", *QUICK, "--run-dir", "r")
    assert run_cli(*argv).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()}
    holder = (
        "import pathlib\nfrom wasskit.training.run import RunDirectory\n"
        "with RunDirectory.open(pathlib.Path('r')).claimed():\n    print('held', flush=True)\n    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for how in ("--resume", "--requeue"):
            refused = run_cli(*argv, how)
            assert refused.exit_code == 2
            assert f"Another process (process {other.pid} on" in words(refused.stderr)
        after = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()}
        assert after.keys() == before.keys()
        assert all(after[name] == before[name] for name in before if name != ".lock")
        other.kill()
    assert run_cli(*argv, "--resume").exit_code == 0, "the claim falls with its process"


@pytest.mark.slow
def test_sigterm_then_resume_equals_never_stopped(server: Server, tmp_path: Path) -> None:
    def start(*argv: str) -> Command:
        return server.start(["mrl", "train", "--no-tensorboard", "--quiet", *argv], tmp_path)

    settings = ("--epochs", "4", "--batch-size", "64", "--log-every", "1")
    assert start(*settings, "--run-dir", "whole").finish() == 0
    stopped = start(*settings, "--run-dir", "stopped")
    csv = tmp_path / "stopped" / "metrics.csv"
    deadline = time.monotonic() + 300
    while not csv.is_file() or csv.read_text().count("\n") < 150:
        assert stopped.code is None, stopped.said
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stopped.send(signal.SIGTERM)
    assert stopped.finish() == 128 + signal.SIGTERM
    assert not (tmp_path / "stopped" / "summary.json").exists()
    assert start("--resume", "stopped").finish() == 0

    def weights(name: str) -> dict[str, Any]:
        return torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["task"]  # type: ignore[no-any-return]

    expected, actual = weights("whole"), weights("stopped")
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert csv.read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
