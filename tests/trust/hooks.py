"""What befalls a command in a trial: at a step, on a rank. Set in the forks of `tests.trust.server`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
TOP = 0
"""The process of the command, which may have started ranks or trainings."""
HOOK: dict[str, Any] = {}
"""What happens.

``stop``: a signal to the command after so many steps (``at``). ``nan``: a loss that is not a number, ``die``: a kill of
the process in its first attempt, both on the rank ``rank`` in the step after ``at``. After ``at`` steps, ``full``: this
file fills its file system; ``hold``: this file is made, and the next step taken when it is gone.
"""


_installed: list[bool] = []
_arrived: list[int] = []


def install() -> None:
    """Set what `HOOK` says in this process."""
    if not HOOK or _installed:  # forked from a process that has set it
        return
    _installed.append(True)
    _listen()
    from wasskit.distributed.launch import is_restarted
    from wasskit.training.loop import Loop

    loop: Any = Loop
    update, watch = loop._update, loop._watch
    done: list[int] = []

    def here() -> bool:
        return os.environ.get("RANK", "0") == str(HOOK.get("rank", 0))

    def watched(self: Any, losses: Any) -> None:
        if HOOK.get("nan") and self.state.step == HOOK["at"] and here():
            losses = dataclasses.replace(losses, total=losses.total * math.nan)
        watch(self, losses)

    def updated(self: Any, batches: Any) -> None:
        if HOOK.get("die") and self.state.step == HOOK["at"] and here() and not is_restarted():
            os.kill(os.getpid(), signal.SIGKILL)
        update(self, batches)
        if done or self.state.step != HOOK.get("at") or not here():
            return
        done.append(self.state.step)
        if HOOK.get("full"):
            fill(Path(HOOK["full"]))
        if HOOK.get("hold"):
            hold(Path(HOOK["hold"]))
        if HOOK.get("stop"):
            _signal_and_wait(HOOK["stop"])

    loop._update, loop._watch = updated, watched


def _signal_and_wait(number: int) -> None:
    """Send the command the signal, and take no further step before it has reached this process."""
    os.kill(TOP, number)
    end = time.monotonic() + 20
    while not _arrived and time.monotonic() < end:
        time.sleep(0.005)


def _listen() -> None:
    """Note in `_arrived` what the handlers hear that are set from now on."""
    plain = signal.signal

    def listening(number: int, handler: Any) -> Any:
        def hear(caught: int, frame: FrameType | None) -> None:
            _arrived.append(caught)
            handler(caught, frame)

        return plain(number, hear if callable(handler) and number in SIGNALS else handler)

    replaced: Any = signal
    replaced.signal = listening


def fill(path: Path) -> None:
    """Fill the file system of a new file to its last byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def hold(gate: Path) -> None:
    """Make a file, and wait until it is gone."""
    gate.touch()
    while gate.exists():
        time.sleep(0.005)
