"""Requests to stop a training: the signals, followed between two steps by all ranks together."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from wasskit.distributed.group import any_rank, is_main, world_size
from wasskit.errors import Interrupted
from wasskit.system.processes import is_child
from wasskit.system.signals import ECHO_SECONDS, StopRequest, handled, stop_signals

__all__ = ["StopSignals"]


class StopSignals(StopRequest):
    """Notes a request to stop until the loop can follow it; a second Ctrl-C is followed at once.

    A context manager: the signals are handled inside.
    """

    def __init__(self) -> None:
        # A Ctrl-C arrives twice: from the terminal, and forwarded by the launcher.
        super().__init__(ECHO_SECONDS if world_size() > 1 or is_child() else 0.0)
        self._handled = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        self._handled.enter_context(handled(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handled.close()
        if self.number is not None and kind is None:
            signal.raise_signal(self.number)  # too late for the loop: the handler outside follows it

    def agreed(self) -> int | None:
        """The signal to follow, the same on all ranks and at the same step."""
        if world_size() == 1:
            return self.number
        if not any_rank(self.number is not None):
            return None
        return next(number for number in stop_signals() if any_rank(self.number == number))

    def __call__(self, number: int) -> None:
        first = self.number is None
        super().__call__(number)
        if self.repeated and self.number == number == signal.SIGINT:
            raise Interrupted(number, "Stopped at once; the run can be resumed from its last checkpoint.")
        if first and number == signal.SIGINT and is_main() and sys.stderr.isatty():
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")
