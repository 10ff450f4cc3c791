"""Children of a parent that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from wasskit.system import processes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX only")

PARENT = """
import os, subprocess, sys, time
from wasskit.system import processes
child = processes.start([sys.executable, "-c", sys.argv[1]], os.environ, stdout=sys.stdout)
time.sleep(600)
"""

CHILD = """
import signal, sys, time
from wasskit.system import processes, signals
with signals.raised():
    if WAY == "poll":
        processes._kernel_tells = lambda: False
    processes.watch_parent()
    try:
        print("child" if processes.is_child() else "no child", flush=True)
        time.sleep(600)
    except signals.Stopped as stop:
        print("saved", stop.signal_number, flush=True)
"""


@pytest.mark.distributed
@pytest.mark.parametrize(
    "way",
    [
        "poll",
        pytest.param("kernel", marks=pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")),
    ],
)
def test_a_child_is_asked_to_stop_when_its_parent_is_killed(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.replace("WAY", repr(way))], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "child\n"
        parent.kill()
        # The end of the output is the end of the child, too.
        assert parent.stdout.read() == "saved 15\n"


def test_a_child_is_killed_with_its_own() -> None:
    own = "import time; print(1, flush=True); time.sleep(600)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {own!r}])"
    reader, writer = os.pipe()
    child = processes.start([sys.executable, "-c", script], os.environ, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        assert output.readline() == b"1\n"
        processes.kill(child)
        assert output.read() == b""
    assert child.returncode == -signal.SIGKILL


def test_a_child_whose_parent_ended_before_it_looked_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setenv("WASSKIT_PARENT", str(os.getpid()))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(processes, "_kernel_tells", lambda: True)
    processes.watch_parent()
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert processes.is_child()
    processes.watch_parent()
    assert len(sent) == 1, "a child of ours is not that process's"
