"""Child processes that get signals from their parent alone, and that end when it ends; the cores for them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

_PARENT = "WASSKIT_PARENT"
_SET_PARENT_DEATH_SIGNAL = 1
_POLL_SECONDS = 0.5


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: a terminal's Ctrl-C comes once, forwarded by us.

    A child that calls `watch_parent` gets SIGTERM when this process ends, however it does.
    """
    return subprocess.Popen(
        list(command),
        env={**environment, **parenthood()},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def parenthood() -> dict[str, str]:
    """What the environment of a child says that others than `start` shall start."""
    return {_PARENT: str(os.getpid())}


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a child of `start` at once, with the processes it has started in its session, and wait for it."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def is_child() -> bool:
    """Whether a command of ours has started this process."""
    return _PARENT in os.environ


def watch_parent() -> None:
    """In a child of ours: get SIGTERM when the parent has ended, from the kernel where it sees to it."""
    parent = os.environ.get(_PARENT, "")
    if not parent or os.name != "posix":
        return
    os.environ[_PARENT] = ""  # our own children are not that process's
    if not _kernel_tells():

        def watch() -> None:
            while os.getppid() == int(parent):
                time.sleep(_POLL_SECONDS)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, name="parent", daemon=True).start()
    elif os.getppid() != int(parent):  # it ended before it could be watched
        os.kill(os.getpid(), signal.SIGTERM)


def _kernel_tells() -> bool:
    """Ask the kernel for SIGTERM at the parent's end. Linux alone has that."""
    if not sys.platform.startswith("linux"):
        return False
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    return True
