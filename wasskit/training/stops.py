"""Requests to stop a training: the signals, followed between two steps by all ranks together."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from wasskit.distributed.group import is_main, largest_of_ranks, world_size
from wasskit.errors import Interrupted
from wasskit.system.processes import is_child
from wasskit.system.signals import ECHO_SECONDS, StopRequest, handled, stop_signals

LOOK_SECONDS = 1.0
"""Ranks tell one another of signals about once in this time,"""
MOST_STEPS = 64
"""and at least once in so many steps."""


class StopSignals(StopRequest):
    """Notes a request to stop until the loop can follow it; a second Ctrl-C is followed at once.

    A context manager: the signals are handled inside.
    """

    def __init__(self) -> None:
        # A Ctrl-C arrives twice: from the terminal, and forwarded by the launcher.
        super().__init__(ECHO_SECONDS if world_size() > 1 or is_child() else 0.0)
        self._handled = contextlib.ExitStack()
        self._interval = 1
        self._last_look: tuple[int, float] | None = None

    def __enter__(self) -> StopSignals:
        self._handled.enter_context(handled(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handled.close()
        if self.number is not None and kind is None:
            signal.raise_signal(self.number)  # too late for the loop: the handler outside follows it

    def agreed(self, step: int, *, due: bool = False) -> int | None:
        """The signal to follow after ``step``, the same on all ranks and at the same step.

        One rank follows it at once. Several look together when it is ``due`` (true on all ranks or on none), and after
        as many steps as fit into `LOOK_SECONDS`, which they agree on at the look before: the slowest rank decides.
        """
        if world_size() == 1:
            return self.number
        then, looked = self._last_look or (step, 0.0)
        if self._last_look is not None and not due and step - then < self._interval:
            return None
        now, numbers = time.monotonic(), stop_signals()
        fitting = int(LOOK_SECONDS * (step - then) / max(now - looked, 1e-6)) if step > then else self._interval
        # The first of several signals, by the order of their list.
        heard = len(numbers) - numbers.index(self.number) if self.number in numbers else 0
        heard, wanted = largest_of_ranks(heard, -min(max(fitting, 1), MOST_STEPS))
        self._interval, self._last_look = -wanted, (step, now)
        return numbers[len(numbers) - heard] if heard else None

    def __call__(self, number: int) -> None:
        first = self.number is None
        super().__call__(number)
        if self.repeated and self.number == number == signal.SIGINT:
            raise Interrupted(number, "Stopped at once; the run can be resumed from its last checkpoint.")
        if first and number == signal.SIGINT and is_main() and sys.stderr.isatty():
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")
