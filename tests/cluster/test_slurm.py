"""Jobs of a real SLURM of one machine, where it is installed: ``apt-get install slurm-wlm munge``, as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.waiting import PATIENCE_SECONDS, await_, said

pytest.importorskip("submitit")

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("slurm.sh")
INSTALLED = all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch")))
WASSKIT = (sys.executable, "-m", "wasskit")
FAST = ("--batch-size", "358", "--dims", "2,8", "--no-tensorboard", "--device", "cpu")
LONG = ("mrl", "train", *FAST, "--epochs", "10000")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(not INSTALLED or os.name != "posix" or os.geteuid() != 0, reason="no SLURM here, or not root"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running SLURM; the environment of its users."""
    folder = tmp_path_factory.mktemp("slurm")
    path = os.pathsep.join(map(str, [ROOT, os.environ.get("PYTHONPATH", "")]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {
        **kept, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
        "COLUMNS": "400", "MPLBACKEND": "agg",
    }  # fmt: skip
    try:
        subprocess.run([SCRIPT, "start", folder], check=True)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, check=False)
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def submit(slurm: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Submit a command in the folder of the test; what ``--json`` says of it. No job outlives the test."""

    def run(*words: str) -> dict[str, Any]:
        command = [*WASSKIT, *words[:2], "--submit", "slurm", "--time", "60", "--json", *words[2:]]
        found = subprocess.run(command, env=slurm, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        result: dict[str, Any] = json.loads(found.stdout)
        return result

    yield run
    subprocess.run(["scancel", "--user", "root"], env=slurm, check=True)
    waiting = ["squeue", "--noheader"]
    await_(lambda: not subprocess.run(waiting, env=slurm, capture_output=True, check=True).stdout)


@pytest.fixture
def job(slurm: dict[str, str]) -> Callable[[str], dict[str, str]]:
    """What SLURM says of a job."""

    def show(number: str) -> dict[str, str]:
        command = ["scontrol", "--oneliner", "show", "job", number]
        said = subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout
        return dict(entry.partition("=")[::2] for entry in said.split())

    return show


def steps(run: Path) -> int:
    """The last step of a run whose losses are recorded."""
    lines = (run / "metrics.csv").read_text().splitlines() if (run / "metrics.csv").is_file() else []
    return int(lines[-1].split(",")[1]) if len(lines) > 1 else 0


def begun(run: Path) -> bool:
    return (run / "checkpoints" / "last.pt").is_file() and steps(run) > 0


def test_a_cancelled_job_saves(
    submit: Callable[..., dict[str, Any]], job: Callable[[str], dict[str, str]], slurm: dict[str, str], tmp_path: Path
) -> None:
    found = submit(*LONG)
    (number,), run = found["jobs"], tmp_path / found["runs"][0]
    await_(lambda: begun(run), lambda: said(tmp_path))
    subprocess.run(["scancel", number], env=slurm, check=True)
    await_(lambda: job(number)["JobState"] == "CANCELLED", lambda: said(tmp_path))
    assert "its state is saved, go on with --resume runs/mrl/train" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


@pytest.mark.parametrize("partition", ["normal", "patient"])
def test_a_preempted_job_saves_is_requeued_and_goes_on(
    submit: Callable[..., dict[str, Any]],
    job: Callable[[str], dict[str, str]],
    slurm: dict[str, str],
    tmp_path: Path,
    partition: str,
) -> None:
    found = submit(*LONG, "--partition", partition, "--nproc", "2", "--name", "mine")
    (number,), run = found["jobs"], tmp_path / "runs" / "mrl" / "mine"
    await_(lambda: begun(run), lambda: said(tmp_path))
    urgent = ["srun", "--partition", "urgent", "--ntasks", "2", "true"]
    subprocess.run(urgent, env=slurm, check=True, timeout=PATIENCE_SECONDS)
    await_(lambda: "its state is saved" in said(tmp_path), lambda: said(tmp_path))
    saved = steps(run)
    await_(lambda: job(number)["Restarts"] == "1" and job(number)["JobState"] == "RUNNING", lambda: str(job(number)))
    await_(lambda: steps(run) > saved, lambda: said(tmp_path))
    assert "Resuming runs/mrl/mine from last.pt" in said(tmp_path)
    subprocess.run(["scancel", number], env=slurm, check=True)
    await_(lambda: job(number)["JobState"] == "CANCELLED", lambda: said(tmp_path))


def test_a_job_whose_time_is_over_goes_on_in_the_next(
    submit: Callable[..., dict[str, Any]], job: Callable[[str], dict[str, str]], slurm: dict[str, str], tmp_path: Path
) -> None:
    found = submit(*LONG)
    (number,), run = found["jobs"], tmp_path / found["runs"][0]
    await_(lambda: begun(run), lambda: said(tmp_path))
    # What SLURM sends two minutes before the end.
    subprocess.run(["scancel", "--batch", "--signal", "USR2", number], env=slurm, check=True)
    await_(lambda: "its state is saved" in said(tmp_path), lambda: said(tmp_path))
    await_(lambda: job(number)["Restarts"] == "1" and job(number)["JobState"] == "RUNNING", lambda: str(job(number)))
    await_(lambda: "from last.pt" in said(tmp_path), lambda: said(tmp_path))
    subprocess.run(["scancel", number], env=slurm, check=True)
    await_(lambda: job(number)["JobState"] == "CANCELLED", lambda: said(tmp_path))


def test_a_sweep_is_an_array_and_a_table_and_a_failed_job_has_a_reason(
    submit: Callable[..., dict[str, Any]], job: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    words = ("sweep", "mrl", "train", "dataset=digits,imagefolder", "--array", "0,1", "--jobs", "2", "--name", "both")
    # The options of the job stand before the options of the trainings.
    found = submit(*words, "--", "--epochs", "1", *FAST, "--backbone", "tiny", "--data-root", nowhere)
    root = tmp_path / "runs" / "sweep" / "both"
    *tasks, last = found["jobs"]
    array = tasks[0].partition("_")[0]
    assert tasks == [f"{array}_{place}" for place in range(4)]
    await_(lambda: job(last)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), lambda: said(tmp_path))
    assert job(last)["JobState"] == "FAILED"
    assert job(last)["ExitCode"] == "1:0"
    reasons = json.loads((root / "failed.json").read_text())
    assert list(reasons) == ["dataset-imagefolder__seed-0", "dataset-imagefolder__seed-1"]
    assert all("nowhere" in reason for reason in reasons.values())
    assert "2 of 4 trainings are not finished, first dataset-imagefolder__seed-0" in said(tmp_path)
    lines = (root / "table.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines} == {"setting", "dataset digits"}
    assert (root / "figures" / "sweep.png").is_file()


RANK = """
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import group, rank, world_size
import torch
with group("cpu"):
    total = reduce_sum(torch.tensor([rank() + 1.0]))
    print("total", total.item(), "of", world_size(), flush=True)
"""


def test_tasks_of_srun_train_as_one(slurm: dict[str, str]) -> None:
    command = ["srun", "--ntasks", "2", sys.executable, "-c", RANK]
    out = subprocess.run(command, env=slurm, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert out.stdout.splitlines() == ["total 3.0 of 2"] * 2


def test_what_sbatch_refuses_is_one_sentence(slurm: dict[str, str], tmp_path: Path) -> None:
    command = [*WASSKIT, *LONG, "--submit", "slurm", "--partition", "nosuch"]
    found = subprocess.run(command, env=slurm, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "SLURM refused the job: " in found.stderr
    assert "nosuch" in found.stderr or "invalid partition" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "runs" / "mrl" / "train").exists()
