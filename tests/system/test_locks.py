"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wasskit.errors import UserError
from wasskit.system.locks import LockHeld, held, holder

pytest.importorskip("fcntl")

OTHER = """
import sys
from pathlib import Path
from wasskit.system.locks import held
with held(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_falls_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockHeld, match=f"process {other.pid} on "), held(path):
            pass
        with pytest.raises(LockHeld), held(path, shared=True):
            pass
        assert str(holder(path)).startswith(f"process {other.pid} on ")
        other.kill()
        with held(path, wait=True):
            assert holder(path) is None  # one's own locks are no obstacle
        other.wait()
    assert holder(path) is None


def test_a_lock_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot write .*nowhere"), held(tmp_path / "nowhere" / ".lock"):
        pass
