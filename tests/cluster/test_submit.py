"""Jobs through submitit: what is asked for, what is run, what comes of signals; with the executor of this machine."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.waiting import PATIENCE_SECONDS, await_, said
from wasskit.cli import find_command
from wasskit.cluster import submit
from wasskit.cluster.job import Job
from wasskit.cluster.request import free_name, jobs_folder, minutes_of, sbatch_options, seeds_of, without_options
from wasskit.cluster.submit import Resources
from wasskit.config import fields_of, values_of
from wasskit.errors import UserError

Cli = Callable[..., Any]
Words = Callable[[str], str]
FAST = ("--dataset", "fake", "--image-size", "8", "--epochs", "1", "--dims", "2,8", "--no-tensorboard")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("5", 5), ("90", 90), ("1:30", 2), ("24:00:00", 1440), ("0:00:01", 1), ("2-12", 3600), ("1-00:30:00", 1470)],
)
def test_times_are_slurms(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "0", "00:00:00"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes_of(text)


def test_seeds_are_ranges_and_lists() -> None:
    assert seeds_of("0-2") == [0, 1, 2]
    assert seeds_of("7, 1-2") == [7, 1, 2]
    for text in ("", "2-1", "a", "1,1", "0-9999999"):
        with pytest.raises(UserError, match="--array"):
            seeds_of(text)


def test_values_of_sbatch_have_commas() -> None:
    text = "hold,exclude=n1,n2,cpus_per_task=8,export=ALL,WHERE=here,no-requeue,mail-type=END,FAIL,exclusive"
    assert list(sbatch_options(text.split(",")).items()) == [
        ("hold", True), ("exclude", "n1,n2"), ("cpus-per-task", "8"), ("export", "ALL,WHERE=here"),
        ("no-requeue", True), ("mail-type", "END,FAIL"), ("exclusive", True),
    ]  # fmt: skip
    assert sbatch_options(()) == {}
    with pytest.raises(UserError, match="'Mem=1' is not NAME=VALUE"):
        sbatch_options(("Mem=1",))


def test_options_are_taken_out_of_a_command_line() -> None:
    line = ["mrl", "train", "--time", "5", "--submit=slurm", "--dry-run", "--lr", "1", "--", "--time", "5"]
    flags = {"--time": True, "--submit": True, "--dry-run": False}
    assert without_options(line, flags) == ["mrl", "train", "--lr", "1", "--", "--time", "5"]


def test_a_checkpoint_stands_for_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Resources] = []

    def submitted(resources: Resources, jobs: Sequence[Job]) -> list[str]:
        asked.append(resources)
        return ["7"]

    monkeypatch.setattr(submit, "submit", submitted)
    checkpoint = tmp_path / "r" / "checkpoints" / "best.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    words = ["--resume", str(checkpoint)]
    config, _, given = find_command("mrl train").parse(["--submit", "slurm", *words])
    told = submit.submit_training("mrl train", ["mrl", "train", *words], values_of(config), given, {})
    assert told["runs"] == [str(tmp_path / "r")]
    assert asked[0].folder == jobs_folder(tmp_path / "r")


def test_a_free_name_is_kept_from_others(tmp_path: Path) -> None:
    run = tmp_path / "byol"
    assert free_name(run, claim=False) == run
    assert not jobs_folder(run).exists()
    assert [free_name(run, claim=True).name for _ in range(3)] == ["byol", "byol-2", "byol-3"]
    (tmp_path / "byol-4").mkdir()
    assert free_name(run, claim=False).name == "byol-5"


def test_every_training_command_can_be_submitted_and_no_other() -> None:
    for path, trains in [("mrl train", True), ("w2gn color", True), ("mrl baseline", True), ("mrl evaluate", False)]:
        assert ("submit" in {f.name for f in fields_of(find_command(path).options)}) is trains


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--gpus", "2"), "--gpus is about a job: add --submit slurm."),
        (("--dry-run",), "--dry-run is about a job"),
        (("--submit", "slurm", "--time", "soon"), "--time: 'soon' is not a time"),
        (("--submit", "slurm", "--sbatch", "Mem"), "--sbatch: 'Mem' is not NAME=VALUE"),
        (("--submit", "slurm", "--array", "0-2", "--seed", "1"), "--seed and --array both"),
        (("--submit", "pbs"), "'pbs' is not one of slurm, local"),
        (("--submit", "local", "--nnodes", "2"), "--submit local is one machine"),
    ],
)
def test_wrong_requests(run_cli: Cli, words: Words, tmp_path: Path, argv: tuple[str, ...], sentence: str) -> None:
    if "--nnodes" in argv:
        pytest.importorskip("submitit")
    result = run_cli("mrl", "train", "--run-dir", tmp_path / "run", *argv)
    assert result.exit_code == 2
    assert sentence in words(result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_without_submitit_there_is_one_sentence(
    run_cli: Cli, words: Words, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("submitit"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = run_cli("mrl", "train", "--run-dir", tmp_path / "run", "--submit", "slurm")
    assert result.exit_code == 2
    assert "pip install 'wasskit[slurm]'" in words(result.stderr)


def script(run_cli: Cli, *argv: str) -> str:
    result = run_cli(*argv, "--submit", "slurm", "--dry-run")
    assert result.exit_code == 0, result.stderr
    text: str = result.stdout
    return text


def test_a_dry_run_prints_the_script(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    further = ("--sbatch", "account=vision,exclusive,exclude=n1,n2,mem=64G")
    options = ("--time", "1-00", "--gpus", "4", "--partition", "long", *further)
    text = script(run_cli, "ssl", "byol", "--w2", "--nnodes", "2", *options)
    lines = text.splitlines()
    for line in (
        "job-name=ssl-byol", "time=1440", "gpus-per-node=4", "partition=long", "nodes=2", "ntasks-per-node=1",
        "account=vision", "exclusive", "mem=64G", "exclude=n1,n2", "requeue", "signal=USR2@120",
        "open-mode=append", "cpus-per-task=4",
    ):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    assert "#SBATCH --array" not in text
    assert lines[-1] == "# 0: wasskit ssl byol --w2 --nnodes 2 --nproc 4 --run-dir runs/ssl/byol --requeue"
    assert list(tmp_path.iterdir()) == []
    text = script(run_cli, "ssl", "byol", "--array", "0,3", "--name", "mine", "--nproc", "1", "--gpus", "1")
    assert "#SBATCH --array=0-1%2" in text
    assert text.splitlines()[-2:] == [
        f"# {place}: wasskit ssl byol --nproc 1 --seed {seed} --run-dir runs/ssl/mine-seed-{seed} --requeue"
        for place, seed in enumerate((0, 3))
    ]


def test_on_one_machine_the_command_takes_the_place_of_the_script(
    run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that SLURM's signals reach it, and no srun kills it before its time; several machines need the srun."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    lines = script(run_cli, "mrl", "train").splitlines()
    assert "#SBATCH --signal=B:USR2@120" in lines
    assert [line.split()[0] for line in lines if "submitit.core._submit" in line] == ["exec"]
    lines = script(run_cli, "mrl", "train", "--nnodes", "2").splitlines()
    assert [line.split()[0] for line in lines if "submitit.core._submit" in line] == ["srun"]


def test_defaults_of_sbatch_hold_where_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sbatch takes its environment before what the script says: only what the command line leaves open stays there."""
    pytest.importorskip("submitit")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    for name in ("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "1")
    resources = Resources("slurm", "mine", tmp_path, 5, partition="long", sbatch={"qos": "high"})
    with submit._as_a_new_job(resources):
        kept = [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_"))]
    assert kept == ["SBATCH_ACCOUNT"]
    assert os.environ["SLURM_JOB_ID"] == "1"


@pytest.mark.parametrize(
    "argv",
    [
        ("sweep", "mrl", "train", "alpha=1,2", "--array", "0,1", "--jobs", "3", "--run-dir", "grid"),
        ("mrl", "sweep", "alpha=1,2", "--array", "0,1", "--jobs", "3", "--run-dir", "grid"),
    ],
)
def test_a_grid_is_an_array_of_what_is_missing(
    run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    text = script(run_cli, *argv)
    assert "#SBATCH --array=0-3%3" in text
    command = "mrl sweep" if argv[0] == "mrl" else "sweep"
    assert f"# wasskit {command} --recipe grid/config.toml --run-dir grid --table-only" in text.splitlines()
    name = "alpha-2__seed-1"
    assert text.splitlines()[-1] == (
        f"# 3: wasskit mrl train --recipe grid/logs/{name}.toml --run-dir grid/{name} --requeue --quiet --nproc 1"
    )
    assert list(tmp_path.iterdir()) == []


# --- As a process in the background -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.distributed
def test_a_training_in_the_background(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    result = run_cli("mrl", "train", *FAST, "--submit", "local", "--time", "60", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["runs"] == ["runs/mrl/train"]
    await_((tmp_path / "runs" / "mrl" / "train" / "summary.json").is_file, lambda: said(tmp_path))
    await_(lambda: "Job completed successfully" in said(tmp_path), lambda: said(tmp_path))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_failing_job_has_the_code_and_the_reason(
    run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    options = ("--dataset", "imagefolder", "--data-root", tmp_path / "nowhere", "--backbone", "tiny")
    assert run_cli("mrl", "train", *options, "--submit", "local").exit_code == 0
    await_(lambda: "Error: " in said(tmp_path), lambda: said(tmp_path))
    assert "nowhere" in said(tmp_path)


CHILD = """
import pathlib, signal, sys, time
heard = pathlib.Path("heard")
def save(number, frame):
    heard.write_text(signal.Signals(number).name)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(600)
"""

RUNNER = """
import os, pathlib, pickle, signal, sys
from wasskit.cluster.job import Job
job = Job(sys.argv[1:], pathlib.Path("log"))
def requeue(number, frame):
    again = job.checkpoint()
    pathlib.Path("again").write_bytes(pickle.dumps((again.function.argv, again.function.log)))
    sys.exit(3)
signal.signal(signal.SIGUSR2, requeue)
job()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 3)])
def test_a_job_waits_until_its_command_has_saved(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGTERM is passed on, and the command's exit code is the job's; before submitit requeues, all is saved."""
    if number == signal.SIGUSR2:
        pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "wasskit_stand_in"
    package.mkdir()
    (package / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{CHILD}'\n")
    (package / "python").chmod(0o755)
    runner = f"import sys\nsys.executable = {str(package / 'python')!r}\n" + RUNNER
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    environment.pop("SLURM_JOB_ID", None)
    with subprocess.Popen([sys.executable, "-c", runner, "mrl", "train"], env=environment) as process:
        await_((tmp_path / "ready").exists)
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == code
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    if number == signal.SIGUSR2:
        assert pickle.loads((tmp_path / "again").read_bytes()) == (["mrl", "train"], Path("log"))


def test_a_job_can_be_pickled() -> None:
    job = pickle.loads(pickle.dumps(Job(["mrl", "train"], Path("a.log"))))
    assert (job.argv, job.log) == (["mrl", "train"], Path("a.log"))
