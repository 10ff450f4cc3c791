"""The claim of a process on the directory that it trains in. Free of torch until it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from wasskit.errors import UserError
from wasskit.system.files import remove_leftovers
from wasskit.system.locks import LockHeld, held

LOCK = ".lock"


@contextlib.contextmanager
def claimed(path: Path, writes: bool, *, alone: bool = True) -> Iterator[None]:
    """Inside, no other process trains in ``path``. On several ranks all enter; the claim is the writing one's.

    The lock ends with the process, however that ends, and is not inherited by a loader's workers.

    Args:
        writes: whether this process writes in the directory.
        alone: no other process writes below the directory, so that temporary files there are leftovers. In a folder of
            many runs, which have claims of their own, only those beside the runs are.

    Raises:
        UserError: another process has the claim.
    """
    from wasskit.distributed.group import broadcast_object

    with contextlib.ExitStack() as stack:
        refusal: str | None = None
        if writes:
            try:
                stack.enter_context(held(path / LOCK))
            except LockHeld as taken:
                refusal = (
                    f"Another process ({taken}) is training in {path}: wait for it, stop it, or choose "
                    "another --run-dir."
                )
        refusal = broadcast_object(refusal)
        if refusal is not None:
            raise UserError(refusal)
        if writes:
            for own in (path,) if alone else (path, path / "figures", path / "logs"):
                remove_leftovers(own, below=alone)
        yield
