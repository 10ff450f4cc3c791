"""A disk that is full or read-only, a run that is moved, a run that is in use."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trust.commands import Training
from tests.trust.runs import again, assert_same, explain, leftovers, reference
from tests.trust.server import Server

pytestmark = pytest.mark.trust


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB; skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(
    server: Server, references: Path, tmp_path: Path, small_disk: Path, training: Training
) -> None:
    seed = f"{training.name} full"
    at = random.Random(seed).randrange(1, training.steps)
    run = small_disk / "run"
    failed = server.run(again(training, run), tmp_path, at=at, full=str(small_disk / "ballast"))
    assert failed.code == (1 if training.is_grid and "failed" in failed.said else 2), explain(seed, failed)
    assert "No space left" in failed.said or "disk is full" in failed.said, explain(seed, failed)
    assert "Traceback" not in failed.said, explain(seed, failed)
    (small_disk / "ballast").unlink()
    assert leftovers(run) == []
    resumed = server.run(again(training, run), tmp_path)
    assert resumed.code == 0, explain(seed, resumed)
    assert_same(run, reference(server, references, training))


def test_a_read_only_run_is_refused_and_kept(
    server: Server, references: Path, tmp_path: Path, small_disk: Path, training: Training
) -> None:
    run = small_disk / "run"
    assert server.run(again(training, run), tmp_path, at=1, stop=int(signal.SIGTERM)).code == 143
    for mode, place, code in (("ro", run, 2), ("ro", small_disk / "another", 2), ("rw", run, 0)):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(small_disk)], check=True)
        command = server.run(again(training, place), tmp_path)
        assert command.code == code, explain(training.name, command)
        assert "Traceback" not in command.said
        assert code == 0 or str(place) in command.said
    assert_same(run, reference(server, references, training))


def test_a_moved_run_goes_on(server: Server, references: Path, tmp_path: Path, training: Training) -> None:
    seed = f"{training.name} moved"
    at = random.Random(seed).randrange(1, training.steps)
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "another"
    stopped = server.run(again(training, run), tmp_path, at=at, stop=int(signal.SIGTERM))
    assert stopped.code == 143, explain(seed, stopped)
    moved.parent.mkdir()
    run.rename(moved)
    resumed = server.run(again(training, moved), tmp_path)
    assert resumed.code == 0, explain(seed, resumed)
    assert not run.exists()
    assert_same(moved, reference(server, references, training))


def test_a_second_process_is_refused_by_name(
    server: Server, references: Path, tmp_path: Path, training: Training
) -> None:
    """The first is held at a step while the second asks; it then goes on undisturbed."""
    run, gate = tmp_path / "run", tmp_path / "gate"
    first = server.start(again(training, run), tmp_path, at=1, hold=str(gate))
    while not gate.exists():
        assert first.wait(0.02) is None, explain(training.name, first)
    second = server.run(again(training, run), tmp_path)
    assert second.code == (1 if training.is_grid and "failed" in second.said else 2), explain(training.name, second)
    assert "Another process (process" in second.said, explain(training.name, second)
    gate.unlink()
    assert first.finish() == 0, explain(training.name, first)
    assert_same(run, reference(server, references, training))
