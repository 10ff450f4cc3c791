"""Series of trainings, with stand-ins that write what a training would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wasskit.errors import RunFailed, UserError
from wasskit.training.run import RunDirectory
from wasskit.training.schedule import Schedule, log_path

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")]

TRAINING = """
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
run.mkdir(parents=True, exist_ok=True)
def save(number, frame):
    (run / "heard").write_text(signal.Signals(number).name)
    if "stubborn" in sys.argv:
        return
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").touch()
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
(run / "pid").write_text(str(os.getpid()))
(run / "ready").touch()
if "wait" in sys.argv or "stubborn" in sys.argv:
    while True:
        time.sleep(0.01)
if "fail" in sys.argv and not (run / "mended").exists():
    print("Error: The loss was nan.", file=sys.stderr)
    sys.exit(1)
if "refuse" in sys.argv:
    print("Error: There is no data.", file=sys.stderr)
    sys.exit(2)
if "die" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""

SERIES = """
import json, pathlib, sys
from wasskit.errors import WasskitError
from wasskit.system.signals import raised
from wasskit.training.schedule import Schedule
root, jobs, commands = pathlib.Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
try:
    with raised():
        Schedule(root, commands, jobs=jobs, done=1).run()
except WasskitError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def command(root: Path, name: str, *words: str) -> list[str]:
    return [sys.executable, "-c", TRAINING, str(root / name), *words]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def start(root: Path, jobs: int, **words: str) -> subprocess.Popen[str]:
    commands = {name: command(root, name, word) for name, word in words.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", SERIES, str(root), str(jobs), json.dumps(commands)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: len(list(root.glob("*/ready"))) == jobs)
    return process


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_passed_on_and_nothing_more_begins(number: signal.Signals, tmp_path: Path) -> None:
    series = start(tmp_path, 2, a="wait", b="wait", c="wait")
    os.killpg(series.pid, number)  # as a terminal does it
    said, _ = series.communicate(timeout=120)
    assert series.returncode == 128 + number
    assert said == (
        f"Stopped by {number.name}: 1 of 4 trainings are finished, 2 saved, 1 pending, 0 failed; the same command "
        "goes on.\n"
    )
    heard = "SIGTERM" if number == signal.SIGHUP else number.name
    assert [(tmp_path / name / "heard").read_text() for name in "ab"] == [heard, heard]
    assert not (tmp_path / "c").exists()


def test_a_second_signal_ends_the_trainings_at_once(tmp_path: Path) -> None:
    series = start(tmp_path, 1, a="stubborn", b="wait")
    series.send_signal(signal.SIGINT)
    until((tmp_path / "a" / "heard").exists)
    series.send_signal(signal.SIGTERM)
    said, _ = series.communicate(timeout=120)
    assert series.returncode == 128 + signal.SIGINT
    assert "1 of 3 trainings are finished, 0 saved, 2 pending" in said
    assert not alive(int((tmp_path / "a" / "pid").read_text()))


def test_the_others_go_on_when_one_fails_and_the_same_command_tries_it_again(tmp_path: Path) -> None:
    commands = {"a": command(tmp_path, "a", "fail"), "b": command(tmp_path, "b", "die"), "c": command(tmp_path, "c")}
    with pytest.raises(RunFailed, match=r"2 of 3 trainings failed, first a: The loss was nan\. The others are"):
        Schedule(tmp_path, commands).run()
    assert (tmp_path / "c" / "ready").exists()
    assert json.loads((tmp_path / "failed.json").read_text()) == {"a": "The loss was nan.", "b": "SIGKILL"}
    assert log_path(tmp_path, "a").read_text() == "Error: The loss was nan.\n"
    (tmp_path / "a" / "mended").touch()
    Schedule(tmp_path, {"a": commands["a"], "c": commands["c"]}).run()
    assert not (tmp_path / "failed.json").exists()


def test_a_reason_that_all_have_is_told_once_and_is_the_requests_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {name: command(tmp_path, name, "refuse") for name in "abc"}
    with pytest.raises(UserError) as caught:
        Schedule(tmp_path, commands).run()
    assert str(caught.value) == (
        "3 of 3 trainings failed, all for one reason: There is no data. The same command tries them again."
    )
    assert capsys.readouterr().err.count("There is no data") == 1
    assert json.loads((tmp_path / "failed.json").read_text()) == dict.fromkeys("abc", "There is no data.")
    with pytest.raises(RunFailed, match=r"3 of 4 trainings failed, first a: There is no data\. The others are"):
        Schedule(tmp_path, commands, done=1).run()
    with pytest.raises(RunFailed, match=r"2 of 2 trainings failed, first a: There is no data\. The same command"):
        Schedule(tmp_path, {"a": commands["a"], "d": command(tmp_path, "d", "fail")}).run()


def test_a_training_that_another_process_is_at_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a training of a killed series that is still saving; what is free goes first."""
    pytest.importorskip("fcntl")
    (tmp_path / "a").mkdir()
    holding = (
        "import pathlib, sys, time; from wasskit.training.run import RunDirectory; run = pathlib.Path(sys.argv[1])\n"
        "with RunDirectory(run, {}).claimed():\n"
        "    (run / 'claimed').touch()\n"
        "    while not (run.parent / 'b' / 'ready').exists(): time.sleep(0.01)\n"
        "    (run / 'released').touch()"
    )
    other = subprocess.Popen([sys.executable, "-c", holding, str(tmp_path / "a")], cwd=ROOT)
    until((tmp_path / "a" / "claimed").exists)
    Schedule(tmp_path, {name: command(tmp_path, name) for name in "ab"}).run()
    assert (tmp_path / "a" / "released").exists()
    assert other.wait(120) == 0
    assert f"process {other.pid} on" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_runs_keeps_what_its_members_are_writing(tmp_path: Path) -> None:
    """A training of a killed series may be saving below the folder that the next series claims."""
    draft = tmp_path / "a" / "checkpoints" / ".last.pt.1.tmp"
    own = [tmp_path / ".table.csv.1.tmp", tmp_path / "figures" / ".sweep.png.1.tmp"]
    for path in (draft, *own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with RunDirectory(tmp_path, {}).claimed(alone=False):
        assert draft.exists()
        assert not any(path.exists() for path in own), "what a killed series was writing itself"


def test_reasons_that_cannot_be_kept_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a full disk: that ``failed.json`` is not written hides no training's own reason."""
    (tmp_path / "failed.json").mkdir()
    with pytest.raises(RunFailed, match="1 of 1 trainings failed, first a: The loss was nan"):
        Schedule(tmp_path, {"a": command(tmp_path, "a", "fail")}, jobs=1).run()
    assert "Cannot write" in capsys.readouterr().err
