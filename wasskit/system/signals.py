"""The signals that ask a process to stop: which they are, which processes handle them, and how.

A command that trains notes them and stops between two steps (`handled`); everywhere else they end the command by an
exception, so that what was being written is cleaned up (`raised`). Helper processes block them (`shielded`). While
ranks wait for each other to form a group they end the process (`unhandled`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

#: A signal that comes twice within this time was sent once: to the process and to its group, say.
ECHO_SECONDS = 0.5
_HEARD: list[int] = []
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")


class Stopped(BaseException):
    """A signal asked to stop where no handler waits for a better moment.

    Not a ``KeyboardInterrupt``, which libraries of command lines turn into an exit code of their own.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"Stopped by {name_of(signal_number)}.")
        self.signal_number = signal_number


class StopRequest:
    """Notes the first request to stop, and whether it was repeated. A handler for `handled`.

    Args:
        echo: seconds within which the same signal does not count as a repetition.
    """

    def __init__(self, echo: float = ECHO_SECONDS) -> None:
        self.number: int | None = None
        self.repeated = False
        self._echo = echo
        self._when = 0.0

    def __call__(self, number: int) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._when = number, now
        elif number != self.number or now - self._when >= self._echo:
            self.repeated = True


def stop_signals() -> tuple[int, ...]:
    """The signals that ask to stop; not SIGHUP where the process shall outlive its terminal (``nohup``)."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) == signal.SIG_IGN:
        numbers.remove(hang_up)
    return tuple(numbers)


def forwarded(number: int) -> int:
    """What a parent tells its children: a terminal that closes is to them a request to stop as any other."""
    return int(signal.SIGTERM) if number == getattr(signal, "SIGHUP", None) else number


def number_of(error: BaseException) -> int:
    """The signal that an ``Interrupted``, a `Stopped` or a ``KeyboardInterrupt`` stands for."""
    return int(getattr(error, "signal_number", signal.SIGINT))


def name_of(number: int) -> str:
    """``SIGTERM`` for 15; the number of a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def handled(handler: Callable[[int], object]) -> AbstractContextManager[None]:
    """Inside, the signals that ask to stop call ``handler(number)``; outside the main thread nothing changes."""

    def hear(number: int, frame: FrameType | None) -> None:
        _HEARD.append(number)
        handler(number)

    return _acting(hear)


def unhandled() -> AbstractContextManager[None]:
    """Inside, a signal that asks to stop ends the process at once: for calls that run no handler while they wait."""
    return _acting(signal.SIG_DFL)


def first_heard() -> int | None:
    """The first signal that has asked this process to stop, if one of its handlers has heard any."""
    return _HEARD[0] if _HEARD else None


@contextlib.contextmanager
def _acting(action: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                before[number] = signal.signal(number, action)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside, a signal that asks to stop raises `Stopped`; the second one ends the process at once."""
    request = StopRequest()

    def follow(number: int) -> None:
        first = request.number is None
        request(number)
        if request.repeated:
            os._exit(128 + number)
        if first:
            raise Stopped(number)

    def repeat(dropped: sys.UnraisableHookArgs) -> None:
        # Python drops what is raised in a finaliser or in the callback of a weak reference, where a signal is heard as
        # anywhere else: the request is made again. By another thread, after this function: here it would be dropped.
        stop = stop_behind(dropped.exc_value)
        if stop is None:
            otherwise(dropped)
            return
        request.number = None
        ending = threading.Event()
        threading.Thread(target=_send_after, args=(ending, stop.signal_number), daemon=True).start()
        ending.set()

    otherwise, sys.unraisablehook = sys.unraisablehook, repeat
    try:
        with handled(follow):
            yield
    finally:
        sys.unraisablehook = otherwise


def stop_behind(error: BaseException | None) -> Stopped | None:
    """The request to stop that an error follows: one that comes inside an import of compiled code is an ImportError."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error


def _send_after(event: threading.Event, number: int) -> None:
    """Send a signal to the main thread of this process once it has set the event and gone on."""
    event.wait()
    time.sleep(0.01)
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def shield() -> None:
    """Block the signals that ask to stop, from now on."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    else:
        for number in stop_signals():
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Inside, this thread blocks the signals that ask to stop; processes started inside inherit that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
