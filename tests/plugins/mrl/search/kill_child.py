"""Ends changes of an index at every step that they take on the file system: ``kill_child FOLDER``.

The folder gets a copy of an index for each step of each change, in the state that a kill just before that step leaves.
This process computes nothing itself, so that its forks find no thread pool of their parent's.
"""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wasskit.plugins.mrl.search.index import PrefixIndex


def vectors(ids: Any) -> Any:
    """The vector of each id: what an index must hold of it."""
    return np.stack([np.random.default_rng(id).normal(size=12) for id in ids]).astype(np.float32)


BEFORE = range(40)
CHANGES: dict[str, tuple[Callable[[Path], Any], list[int]]] = {
    "create": (lambda path: PrefixIndex.create(path, vectors(BEFORE), dim=4), [*BEFORE]),
    "replace": (
        lambda path: PrefixIndex.create(path, vectors(range(50, 60)), ids=range(50, 60), dim=4, overwrite=True),
        [*range(50, 60)],
    ),
    "add": (lambda path: PrefixIndex(path).add(vectors(range(40, 45))), [*range(45)]),
    "grow": (lambda path: PrefixIndex(path).add(vectors(range(40, 200))), [*range(200)]),
    "delete": (lambda path: PrefixIndex(path).delete([*range(3, 9), 39]), [0, 1, 2, *range(9, 39)]),
    "empty": (lambda path: PrefixIndex(path).delete(BEFORE), []),
    "compact": (lambda path: PrefixIndex(path).compact(), [*BEFORE]),
}
"""Each change, and the ids after it. All but the first begin with the ids 0 to 39; 5 and 6 were added twice."""

EVERY = ("add", "delete", "empty")
"""Changes that are ended before each of their steps; the longer ones before every third."""


def main(folder: Path) -> None:
    base = folder / "base"
    _fork(lambda: _base(base), 0)
    for name, (change, _) in CHANGES.items():
        step, killed, stride = 1, True, 1 if name in EVERY else 3
        while killed:
            path = folder / f"{name}-{step}"
            if name != "create":
                shutil.copytree(base, path)
            killed = _fork(lambda change=change, path=path: change(path), step)  # type: ignore[misc]
            step += stride


def _base(path: Path) -> None:
    index = PrefixIndex.create(path, vectors(range(30)), dim=4)
    index.delete([5, 6])
    index.add(vectors(range(30, 40)))
    index.add(vectors([5, 6]), [5, 6])


def _fork(call: Callable[[], Any], step: int) -> bool:
    """Run it in a fork that is killed before the step of that number (0: never); whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if step:
                _kill_at(step)
            call()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL:
        return True
    assert ended == 0, f"ended with {ended}"
    return False


def _kill_at(step: int) -> None:
    counted = [0]

    def counting(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Of files that are opened, those to be written.
            counted[0] += function is not plain_open or bool({*str(args[1:2])} & {*"wxa+"})
            if counted[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    plain_open = io.open
    setattr(os, "fsync", lambda _: None)  # noqa: B010 - what a kill leaves behind it, the system still writes
    places: list[tuple[Any, str]] = [(os, "replace"), (os, "fsync"), (os, "unlink"), (os, "mkdir"), (io, "open")]
    for module, name in places:
        setattr(module, name, counting(getattr(module, name)))
        accessor = getattr(pathlib, "_NormalAccessor", None)  # by which the paths of Python 3.10 call them
        if accessor is not None and hasattr(accessor, name):
            setattr(accessor, name, staticmethod(getattr(module, name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
