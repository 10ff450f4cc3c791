"""Real processes: what a rank is given, what becomes of signals and failures, and which devices are found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wasskit.distributed import agent
from wasskit.distributed import launch as launching
from wasskit.distributed.devices import Device, find_devices, parse_device_list
from wasskit.distributed.group import _choose_device
from wasskit.distributed.launch import is_launched, join_slurm_step, launch, slurm_endpoint
from wasskit.errors import UserError

ROOT = Path(__file__).parents[2]

# ---- devices ----

PLAIN = """\
GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000000)
GPU 1: Tesla V100-SXM2-16GB (UUID: GPU-22222222-aaaa-bbbb-cccc-000000000000)
"""

SLICED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-33333333-aaaa-bbbb-cccc-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-44444444-aaaa-bbbb-cccc-000000000000)
  MIG 1c.2g.10gb  Device  1: (UUID: MIG-55555555-aaaa-bbbb-cccc-000000000000)
  MIG 1g.5gb+me   Device  2: (UUID: MIG-66666666-aaaa-bbbb-cccc-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77777777-aaaa-bbbb-cccc-000000000000)
GPU 2: A100-SXM4-40GB (UUID: GPU-88888888-aaaa-bbbb-cccc-000000000000)
  MIG 7g.40gb Device 0: (UUID: MIG-GPU-88888888-aaaa-bbbb-cccc-000000000000/0/0)
"""


def test_plain_gpus_are_parsed() -> None:
    assert parse_device_list(PLAIN) == [
        Device(name, uuid, gpu, False, uuid)
        for gpu, (name, uuid) in enumerate(
            [
                ("NVIDIA GeForce RTX 3090", "GPU-11111111-aaaa-bbbb-cccc-000000000000"),
                ("Tesla V100-SXM2-16GB", "GPU-22222222-aaaa-bbbb-cccc-000000000000"),
            ]
        )
    ]


def test_slices_stand_for_their_gpu() -> None:
    found = [(device.name, device.gpu, device.is_slice, device.selector[:8]) for device in parse_device_list(SLICED)]
    assert found == [
        ("MIG 3g.20gb", 0, True, "MIG-4444"),
        ("MIG 1c.2g.10gb", 0, True, "MIG-5555"),
        ("MIG 1g.5gb+me", 0, True, "MIG-6666"),
        ("NVIDIA A100-SXM4-40GB", 1, False, "GPU-7777"),
        ("MIG 7g.40gb", 2, True, "MIG-GPU-"),
    ]


def test_other_output_has_no_devices() -> None:
    assert parse_device_list("") == []
    assert parse_device_list("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") == []
    assert parse_device_list("  MIG 1g.5gb  Device  0: (UUID: MIG-1)") == []


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for nvidia-smi that lists what the returned file holds."""
    listing = tmp_path / "listing"
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {listing}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return listing


@pytest.mark.parametrize(
    ("setting", "selectors"),
    [
        (None, ["MIG-4444", "MIG-5555", "MIG-6666", "GPU-7777", "MIG-GPU-"]),
        ("", []),
        ("1", ["1"]),
        ("1,0", ["1", "MIG-4444", "MIG-5555", "MIG-6666"]),
        ("MIG-55555555-aaaa-bbbb-cccc-000000000000", ["MIG-5555"]),
        (" GPU-7777 , MIG-444", ["GPU-7777", "MIG-4444"]),
        ("1,9,0", ["1"]),
        ("-1", []),
        ("GPU-33333333-aaaa-bbbb-cccc-000000000000", ["MIG-4444", "MIG-5555", "MIG-6666"]),
        ("GPU-88,GPU-7", ["MIG-GPU-", "GPU-7777"]),
        ("0:2,0:0", ["MIG-6666", "MIG-4444"]),
        ("2:0", ["MIG-GPU-"]),
        ("0:3", []),
        ("1:0", []),
    ],
)
def test_visible_devices_are_found(
    setting: str | None, selectors: list[str], driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text(SLICED)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [device.selector[:8] for device in find_devices()] == selectors


@pytest.mark.parametrize(
    ("setting", "rank", "seen"),
    [
        ("GPU-33333333-aaaa-bbbb-cccc-000000000000", None, "MIG-4444"),
        ("0:1", None, "MIG-5555"),
        ("MIG-66666666-aaaa-bbbb-cccc-000000000000", None, "MIG-6666"),
        ("MIG-66666666-aaaa-bbbb-cccc-000000000000", 0, "MIG-6666"),
        ("0:1,0:2", 1, "MIG-6666"),
        ("GPU-3333", 1, "MIG-5555"),
        ("0", 2, "MIG-6666"),
        ("0", 4, "MIG-5555"),
        ("0,1", 3, "1"),
        ("GPU-33333333-aaaa-bbbb-cccc-000000000000,GPU-7777", 3, "GPU-77777777-aaaa-bbbb-cccc-000000000000"),
        ("GPU-77777777-aaaa-bbbb-cccc-000000000000", None, "GPU-7777"),
        ("1", None, "1"),
        ("1", 1, "1"),
    ],
)
def test_a_process_sees_its_own_slice(
    setting: str, rank: int | None, seen: str, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text(SLICED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(UserError, match="no CUDA device"):
        _choose_device("cuda", distributed=rank is not None)
    assert os.environ["CUDA_VISIBLE_DEVICES"][: len(seen)] == seen
    assert seen.startswith("MIG") or "," in setting or os.environ["CUDA_VISIBLE_DEVICES"] == setting


def test_no_driver_means_no_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_devices() == []


# ---- what a rank is given ----

REPORT = """
import os, pathlib, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
said = [os.environ.get(name, "-") for name in names] + sys.argv[1:]
pathlib.Path(sys.argv[-1], os.environ["RANK"]).write_text("\\n".join(said))
print("to the terminal", os.environ["RANK"])
"""


def report(nproc: int, folder: Path, *argv: str) -> list[list[str]]:
    assert launch(nproc, [*argv, str(folder)], program=(sys.executable, "-c", REPORT)) == 0
    return [(folder / str(place)).read_text().splitlines() for place in range(nproc)]


@pytest.mark.slow
def test_ranks_get_torchruns_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("wasskit.system.processes.cores", lambda: 7)
    said = report(3, tmp_path, "mrl", "train", "--name", "a b")
    for place, lines in enumerate(said):
        assert lines[:5] == [str(place), str(place), "3", "3", "127.0.0.1"]
        assert int(lines[5]) > 1023
        assert lines[5] == said[0][5]
        assert lines[6:8] == ["2", "-"]
        assert lines[8:] == ["mrl", "train", "--name", "a b", str(tmp_path)]
    assert capfd.readouterr().out == "to the terminal 0\n"


@pytest.mark.slow
def test_threads_that_are_set_stay_and_the_launcher_deals_out_no_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Path
) -> None:
    """Each rank finds its own, by its local rank: torchrun and srun place them likewise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    driver.write_text("\n".join(SLICED.splitlines()[:3]))
    before = dict(os.environ)
    said = report(3, tmp_path)
    assert [lines[6:8] for lines in said] == [["5", "-"]] * 3
    assert dict(os.environ) == before


@pytest.mark.slow
def test_words_reach_the_ranks_as_they_are(tmp_path: Path) -> None:
    words = ["", "$$", "${local_rank}", "a b", "'"]
    assert [lines[8:-1] for lines in report(2, tmp_path, *words)] == [words] * 2


def test_no_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="--nproc 0"):
        launch(0, [])


@pytest.mark.parametrize(
    ("endpoint", "sentence"), [(None, "--rdzv-endpoint HOST:PORT"), ("node1", "'node1' is not HOST:PORT")]
)
def test_machines_that_cannot_meet_are_refused(
    endpoint: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=sentence):
        launch(1, [], nnodes=2, endpoint=endpoint)


# ---- SLURM ----


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node7", "node7"), ("gpu[03-05,9]", "gpu03"), ("a1,b[2-3]", "a1"), ("r[1,4]-ib", "r1-ib"), ("x-[10]", "x-10")],
)
def test_the_machines_of_a_job_meet_at_its_first(nodes: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    found = slurm_endpoint()
    assert found is not None
    assert found.rpartition(":")[0] == host
    assert 20000 <= int(found.rpartition(":")[2]) < 32000
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm_endpoint() is None


STEP = {
    "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NODELIST": "n[4-6]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_PROCID": "4", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}  # fmt: skip


def joined(monkeypatch: pytest.MonkeyPatch, **changes: str) -> dict[str, str]:
    """torchrun's variables after a task of srun has looked at its own."""
    monkeypatch.setattr(os, "environ", {**STEP, **changes})
    join_slurm_step()
    return {name: value for name, value in os.environ.items() if name not in STEP}


def test_tasks_of_srun_are_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = joined(monkeypatch, OMP_NUM_THREADS="3")
    assert found.pop("MASTER_PORT").isdigit()
    assert found == {
        "RANK": "4", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "n4",
        "OMP_NUM_THREADS": "3",
    }  # fmt: skip
    alone = joined(monkeypatch, SLURM_STEP_NUM_NODES="1", SLURM_STEP_TASKS_PER_NODE="5", SLURM_NODEID="0")
    assert alone["MASTER_ADDR"] == "127.0.0.1"
    assert alone["LOCAL_WORLD_SIZE"] == "5"
    assert joined(monkeypatch, SLURM_STEP_NUM_TASKS="1") == {}, "a task alone"
    assert joined(monkeypatch, RANK="0", WORLD_SIZE="2") == {"RANK": "0", "WORLD_SIZE": "2"}, "an agent's rank"


def test_a_launched_process_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_launched()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_launched()


# ---- failures ----

PROLOGUE = """
import os, pathlib, signal, subprocess, sys, time
from wasskit.system.processes import watch_parent
watch_parent()
place, folder = os.environ["RANK"], pathlib.Path(sys.argv[1])
(folder / f"pid{place}").write_text(str(os.getpid()))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def pids(folder: Path) -> list[int]:
    return [int(path.read_text() or 0) for path in folder.glob("pid*")]


def run(folder: Path, body: str, nproc: int = 2) -> int:
    return launch(nproc, [str(folder)], program=(sys.executable, "-c", PROLOGUE + body))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(agent, "_KILL_SECONDS", 0.3)


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("death", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("raise SystemExit(2)", 2)]
)
@pytest.mark.parametrize("victim", ["0", "1"])
def test_one_ranks_death_ends_the_others_with_its_code(death: str, code: int, victim: str, tmp_path: Path) -> None:
    body = f"""
if place == "{victim}":
    {death}
time.sleep(600)
"""
    assert run(tmp_path, body, nproc=3) == code
    assert not any(map(alive, pids(tmp_path)))


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
def test_a_rank_that_will_not_end_is_killed_with_its_workers(tmp_path: Path) -> None:
    body = """
if place == "1":
    while not (folder / "pid-worker").exists():
        time.sleep(0.01)
    sys.exit(4)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / "part").write_text(str(worker.pid))
(folder / "part").rename(folder / "pid-worker")
time.sleep(600)
"""
    assert run(tmp_path, body) == 4
    assert len(pids(tmp_path)) == 3
    deadline = time.monotonic() + 60
    while any(map(alive, pids(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, pids(tmp_path)))


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
def test_the_failing_rank_is_heard_and_a_common_failure_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = """
print("why", place, file=sys.stderr, flush=True)
(folder / f"said{place}").touch()
while len(list(folder.glob("said*"))) < 2:
    time.sleep(0.01)
if place == "1":
    sys.exit(3)
time.sleep(600)
"""
    assert run(tmp_path, alone) == 3
    assert sorted(capfd.readouterr().err.splitlines()) == ["why 0", "why 1"]
    together = "print('why', place, file=sys.stderr)\nsys.exit(2)"
    assert run(tmp_path, together) == 2
    assert capfd.readouterr().err == "why 0\n"


NOTING = (
    PROLOGUE
    + """
from wasskit.distributed.launch import note_saved
if place == "0":
    for step in [STEPS]:
        note_saved(folder / "a run", step)
    (folder / "noted").touch()
while not (folder / "noted").exists():
    time.sleep(0.01)
if place == "1":
    os.kill(os.getpid(), signal.NAME)
time.sleep(600)
"""
)


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("steps", "name", "code", "sentence"),
    [
        (
            "None, 20, 40",
            "SIGKILL",
            137,
            "Error: Rank 1 was ended by SIGKILL, probably because memory ran out: use a smaller --batch-size, fewer "
            "--workers or fewer ranks. The last checkpoint is {run}/checkpoints/last.pt (step 40); go on with "
            "--resume '{run}'.",
        ),
        (
            "None",
            "SIGSEGV",
            139,
            "Error: Rank 1 was ended by SIGSEGV. Nothing was saved, no checkpoint had been written: start the run "
            "over with --run-dir '{run}' --requeue.",
        ),
        ("", "SIGABRT", 134, "Error: Rank 1 was ended by SIGABRT."),
    ],
)
def test_a_killed_rank_is_named_with_what_was_saved(
    steps: str, name: str, code: int, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, NOTING.replace("STEPS", steps).replace("NAME", name)) == code
    assert " ".join(capfd.readouterr().err.split()) == sentence.format(run=tmp_path / "a run")


RESTARTING = (
    PROLOGUE
    + """
from wasskit.distributed.launch import is_restarted, note_saved, read_saved
with (folder / f"attempts{place}").open("a") as file:
    file.write(f"{is_restarted()} {read_saved()} ")
if not is_restarted():
    if place == "0":
        note_saved(folder / "run", 20)
        (folder / "noted").touch()
    while not (folder / "noted").exists():
        time.sleep(0.01)
if place == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] in DEATHS:
    END
if not is_restarted() or "WAIT":
    time.sleep(600)
"""
)


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
def test_ranks_start_again_after_one_has_died(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = RESTARTING.replace("DEATHS", "('0',)").replace("END", "os.kill(os.getpid(), 9)").replace('"WAIT"', "False")
    assert launch(2, [str(tmp_path)], program=(sys.executable, "-c", body), max_restarts=2) == 0
    first, second = (tmp_path / "attempts1").read_text(), (tmp_path / "attempts0").read_text()
    assert first.startswith("False ")
    assert first.endswith(f"True ({(tmp_path / 'run')!r}, 20) ")
    assert second.count("True") == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "Rank 1 was ended by SIGKILL" in said
    assert "All ranks start again from what is saved (attempt 2 of 3)" in said


@pytest.mark.distributed
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("end", "code", "attempts"), [("sys.exit(2)", 2, 1), ("sys.exit(5)", 5, 2)])
def test_a_wrong_request_is_not_tried_again(end: str, code: int, attempts: int, tmp_path: Path) -> None:
    body = RESTARTING.replace("DEATHS", "('0', '1')").replace("END", end)
    assert launch(2, [str(tmp_path)], program=(sys.executable, "-c", body), max_restarts=1) == code
    assert len((tmp_path / "attempts1").read_text().split("None ")) >= 1
    assert (tmp_path / "attempts0").read_text().count("True") == attempts - 1
    assert not any(map(alive, pids(tmp_path)))


# ---- signals ----

LAUNCHER = """
import sys
from wasskit.distributed import launch
sys.exit(launch.launch(2, sys.argv[2:], program=(sys.executable, "-c", sys.argv[1])))
"""

CATCHER = (
    PROLOGUE
    + """
def note(number, frame):
    with (folder / f"heard{place}").open("a") as file:
        file.write(signal.Signals(number).name + " ")
    if number != signal.SIGUSR1:
        time.sleep(0.5 * (place == "0"))
        sys.exit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
(folder / f"ready{place}").touch()
while True:
    time.sleep(0.05)
"""
)

STUBBORN = (
    PROLOGUE
    + """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
(folder / f"ready{place}").touch()
time.sleep(600)
"""
)


def start(folder: Path, body: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", LAUNCHER, body, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("ready*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("number", "code", "heard"),
    [(signal.SIGINT, 130, "SIGINT "), (signal.SIGTERM, 143, "SIGTERM "), (signal.SIGHUP, 143, "SIGTERM ")],
)
def test_a_request_to_stop_reaches_every_rank_once(
    number: signal.Signals, code: int, heard: str, tmp_path: Path
) -> None:
    process = start(tmp_path, CATCHER)
    # As the terminal's Ctrl-C does it: to the whole foreground group.
    os.killpg(process.pid, number)
    # A rank that ends 0.5 s after the other is not disturbed: it may be saving.
    assert process.wait(120) == code
    assert [(tmp_path / f"heard{place}").read_text() for place in range(2)] == [heard, heard]
    assert not any(map(alive, pids(tmp_path)))


LEFT = (
    PROLOGUE
    + """
from wasskit.distributed.group import barrier, group
from wasskit.errors import WasskitError
from wasskit.system.signals import handled

try:
    with group("cpu"):
        if place == LEAVES:
            signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
            (folder / f"ready{place}").touch()
            time.sleep(600)
        with handled(lambda number: None):
            (folder / f"ready{place}").touch()
            barrier()
except WasskitError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(error.exit_code)
"""
)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("leaves", ["0", "1"])
def test_a_rank_that_stops_before_the_others_is_no_failure(
    leaves: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the one notes the request for a better moment, the other may be where it ends at once."""
    process = start(tmp_path, f"LEAVES = {leaves!r}\n{LEFT}")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    said = capfd.readouterr().err
    assert "lost contact" not in said
    assert ("Stopped by SIGINT." in said) == (leaves == "1")


FINALIZED = """
import os, signal
from torch.distributed.elastic.multiprocessing import api

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass

start = api.SubprocessContext._start

def _start(self):
    start(self)
    Finalized()

api.SubprocessContext._start = _start
"""


@pytest.mark.distributed
def test_a_request_is_not_lost_where_python_drops_exceptions(tmp_path: Path) -> None:
    """Ranks are being started, and the signal comes while a finalizer runs: an exception raised there goes nowhere."""
    command = [sys.executable, "-c", FINALIZED + LAUNCHER, CATCHER, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert process.returncode == 143
    assert "Traceback" not in process.stderr
    assert not any(map(alive, pids(tmp_path)))


@pytest.mark.distributed
def test_usr1_is_passed_on_and_ends_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, CATCHER)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("heard*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    process.terminate()
    assert process.wait(120) == 143
    assert [(tmp_path / f"heard{place}").read_text() for place in range(2)] == ["SIGUSR1 SIGTERM "] * 2


@pytest.mark.distributed
def test_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(tmp_path, CATCHER)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(120) == 143
    assert [(tmp_path / f"heard{place}").read_text() for place in range(2)] == ["SIGTERM "] * 2


@pytest.mark.distributed
def test_the_third_request_kills(tmp_path: Path) -> None:
    process = start(tmp_path, STUBBORN)
    sent = 0
    # Two signals that come while the launcher gets no processor are one: then it takes more than three.
    while any(map(alive, pids(tmp_path))) and sent < 200:
        process.send_signal(signal.SIGINT)
        sent += 1
        time.sleep(0.3)
    assert process.wait(120) == 137
    assert sent >= 3
    assert not any(map(alive, pids(tmp_path)))


@pytest.mark.distributed
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children of a killed parent")
def test_a_killed_launcher_leaves_no_orphans(tmp_path: Path) -> None:
    process = start(tmp_path, CATCHER)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, pids(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, pids(tmp_path)))


# ---- with torch ----

TRAINING = """
import os, sys
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import any_rank, barrier, group, rank, world_size
from wasskit.errors import RunFailed, UserError
import torch

try:
    with group("cpu") as device:
        total = reduce_sum(torch.tensor([rank() + 1.0], device=device))
        print("total", total.item(), "of", world_size(), flush=True)
        if sys.argv[1] == "fail" and rank() == 1:
            raise UserError("the data are not there")
        if sys.argv[1] == "fail":
            barrier()
except (RunFailed, UserError) as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(error.exit_code)
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_ranks_train_together_and_a_lost_peer_is_explained(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    program = (sys.executable, "-c", TRAINING)
    assert launch(2, ["work"], program=program) == 0
    assert capfd.readouterr().out == "total 3.0 of 2\n"
    assert launch(2, ["fail"], program=program) == 2
    said = capfd.readouterr().err
    assert "the data are not there" in said
    assert "Traceback" not in said


@pytest.mark.distributed
@pytest.mark.slow
def test_torchrun_spans_machines(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": launching._loopback() or ""}
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
                *("--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)),
                *(str(script), "work"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for node in range(2)
    ]
    outputs = [machine.communicate(timeout=600)[0].decode() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert all("total 3.0 of 2" in output for output in outputs)


@pytest.mark.distributed
@pytest.mark.slow
def test_our_launcher_spans_machines(tmp_path: Path) -> None:
    """Two launchers that meet: ranks of both sum, and each says so of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"""
import sys
from wasskit.distributed.launch import launch
program = (sys.executable, "-c", {TRAINING!r})
sys.exit(launch(1, ["work"], nnodes=2, endpoint="127.0.0.1:{port}", program=program))
"""
    machines = [
        subprocess.Popen([sys.executable, "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert outputs == ["total 3.0 of 2\n"] * 2


LOSING = """
import os, pathlib, signal, sys
from wasskit.distributed.group import any_rank, group, rank
from wasskit.system.signals import raised

with raised(), group("cpu"):
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        any_rank(False)
"""


MEETING_AGAIN = """
import os, signal
import torch
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import group, rank
from wasskit.distributed.launch import is_restarted
from wasskit.system.signals import raised

with raised(), group("cpu"):
    total = reduce_sum(torch.tensor([rank() + 1.0]))
    if rank() == 1 and not is_restarted():
        os.kill(os.getpid(), signal.SIGKILL)
    print("total", reduce_sum(total).item(), is_restarted(), flush=True)
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_group_forms_again_after_a_death(capfd: pytest.CaptureFixture[str]) -> None:
    """Not by the addresses of the first attempt, which an agent's store may still hold."""
    assert launch(2, [], program=(sys.executable, "-c", MEETING_AGAIN), max_restarts=1) == 0
    assert capfd.readouterr().out == "total 6.0 True\n"


@pytest.mark.distributed
def test_the_others_of_a_killed_rank_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """They are ended by SIGTERM, which nobody outside has sent."""
    assert launch(2, [], program=(sys.executable, "-c", LOSING)) == 137
    said = " ".join(capfd.readouterr().err.split())
    assert said.startswith("Error: Rank 1 was ended by SIGKILL")
    assert "SIGTERM" not in said


FORMING = (
    PROLOGUE
    + """
from wasskit.distributed import group
from wasskit.system.signals import raised

def ready():
    (folder / f"ready{place}").touch()

meet = group.rendezvous

def rendezvous(*args):  # here torch 2.4 waits already, later versions while they make the group
    ready()
    return meet(*args)

group.rendezvous = rendezvous
if place == "0":
    with raised():
        group.init_group("cpu")
ready()
while True:
    time.sleep(0.05)
"""
)


@pytest.mark.distributed
def test_a_rank_that_waits_for_others_to_form_a_group_is_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 waits for rank 1, which never comes, in a call that runs no handler; nothing is left to say so but us."""
    process = start(tmp_path, FORMING)
    process.terminate()
    assert process.wait(60) == 143
    assert "Stopped by SIGTERM" in capfd.readouterr().err
    assert not any(map(alive, pids(tmp_path)))
