"""Requests to stop: noted, raised, or never heard. Real signals, to this process or to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from wasskit.system import signals
from wasskit.system.signals import Stopped, StopRequest, forwarded, handled, raised, shielded, stop_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]


@pytest.fixture(autouse=True)
def hearing() -> object:
    """The suite itself may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_requests_are_noted_and_handlers_restored(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    with handled(request := StopRequest()):
        signal.raise_signal(number)
        assert request.number == number
        assert not request.repeated
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_an_echo_is_no_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    request = StopRequest()
    request(15)
    request(15)
    assert [request.number, request.repeated] == [15, False]
    now[0] += 2 * signals.ECHO_SECONDS
    request(15)
    assert [request.number, request.repeated] == [15, True]
    other = StopRequest()
    other(15)
    other(2)
    assert [other.number, other.repeated] == [15, True]


def test_nohup_is_respected_and_a_hang_up_is_forwarded_as_a_request() -> None:
    assert set(stop_signals()) == set(NUMBERS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in stop_signals()
    assert [forwarded(number) for number in NUMBERS] == [15, 2, signal.SIGUSR1, signal.SIGUSR2, 15]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_request_raises_where_nobody_notes_it(number: signal.Signals) -> None:
    with pytest.raises(Stopped, match=f"Stopped by {number.name}") as caught, raised():
        signal.raise_signal(number)
    assert caught.value.signal_number == number


def test_other_threads_leave_the_handlers_alone() -> None:
    found: list[object] = []

    def look() -> None:
        with handled(lambda number: None):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


SECOND = """
import signal, sys, time
from wasskit.system import signals
with signals.raised():
    try:
        signal.raise_signal(signal.SIGTERM)
    except signals.Stopped:
        signal.raise_signal(signal.SIGTERM)  # an echo
        signal.raise_signal(signal.SIGINT)
        print("not reached")
"""


def test_the_second_request_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")


DROPPED = """
import signal, sys, threading, weakref
from wasskit.system import signals

class Held:
    pass

def {name}(*_):
    signal.raise_signal(signal.SIGUSR1)
    print("not reached", flush=True)

{made}
with signals.raised():
    try:
        held = None
        threading.Event().wait(20)
        print("never stopped")
    except signals.Stopped as stop:
        print(stop)
print(sys.unraisablehook is before)
"""
FINALISERS = {
    "weakref": ("ask", "held = Held(); watched = weakref.ref(held, ask)"),
    "del": ("__del__", "Held.__del__ = __del__; held = Held()"),
}


@pytest.mark.parametrize("where", FINALISERS)
def test_a_request_that_python_drops_is_made_again(where: str) -> None:
    name, made = FINALISERS[where]
    code = DROPPED.format(name=name, made=made + "; before = sys.unraisablehook")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Stopped by SIGUSR1.\nTrue\n", "")


def test_other_errors_that_python_drops_are_shown() -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken on purpose")

    shown: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda dropped: shown.append(str(dropped.exc_value))
    try:
        with raised():
            Broken()
    finally:
        sys.unraisablehook = before
    assert shown == ["broken on purpose"]


HEARS = "import signal, sys; print(signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {15, 2, 10, 1})"


def test_processes_started_under_the_shield_never_hear() -> None:
    command = [sys.executable, "-c", HEARS]
    with shielded():
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(Stopped), raised(), shielded():
        signal.raise_signal(signal.SIGTERM)  # comes when the shield is taken away
