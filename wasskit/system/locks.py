"""Locks on files, which fall with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from wasskit.system.files import writing


class LockHeld(Exception):
    """Another process holds the lock; says which."""


@contextlib.contextmanager
def held(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock on a file; nothing where the system or the file system knows no such locks.

    Forks have no share in the lock. A process that opens the file a second time and closes it loses the lock.

    Args:
        path: made where it is missing; it then names the process that holds it.
        wait: until others have released it, instead of raising.
        shared: together with others that only read; the file is there and need not be writable.

    Raises:
        LockHeld: another process holds it, without ``wait``.
        UserError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.nullcontext() if shared else writing(path):
        file = path.open("r" if shared else "a+", encoding="utf-8")
    with file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            # Record locks: unlike those of flock they work over NFS, and forks have no share in them.
            fcntl.lockf(file, kind if wait else kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise LockHeld(file.read().strip() or "unknown") from None
        else:
            if not shared:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n")
                file.flush()
        yield


def holder(path: Path) -> str | None:
    """The other process that holds the lock on a file; None where none does."""
    try:
        with held(path, shared=True):
            return None
    except LockHeld as taken:
        return str(taken)
    except OSError:  # no such file
        return None
