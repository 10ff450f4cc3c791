"""Child processes that get signals from their parent alone, and that end when it ends."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

__all__ = ["is_child", "kill", "start", "watch_parent"]

_PARENT = "WASSKIT_PARENT"
_SET_PARENT_DEATH_SIGNAL = 1


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: a terminal's Ctrl-C comes once, forwarded by us.

    When this process ends, however it does, the child gets SIGTERM: from the kernel on Linux; elsewhere a child that
    calls `watch_parent` sees a pipe close.
    """
    tell = _parent_death_signal()
    pipe = _parent_pipe() if tell is None and os.name == "posix" else None
    return subprocess.Popen(
        list(command),
        env={**environment, _PARENT: "" if pipe is None else str(pipe)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=tell,
        pass_fds=() if pipe is None else (pipe,),
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a child of `start` at once, with the processes it has started in its session, and wait for it."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def is_child() -> bool:
    """Whether `start` has started this process."""
    return _PARENT in os.environ


def watch_parent() -> None:
    """In a child of `start`: get SIGTERM when the parent has ended, where the kernel does not see to it."""
    pipe = os.environ.get(_PARENT, "")
    if not pipe:
        return
    os.environ[_PARENT] = ""  # our own children have no such pipe
    handle = int(pipe)
    os.set_inheritable(handle, False)

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(handle, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _parent_death_signal() -> Callable[[], None] | None:
    """What makes a starting child get SIGTERM when its parent ends. Linux alone has it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tell() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be watched
            os._exit(128 + signal.SIGTERM)

    return tell


@functools.cache
def _parent_pipe() -> int:
    """The reading end of a pipe whose other end is ours alone: it closes when this process ends."""
    reader, _ = os.pipe()
    return reader
