"""Commands as forks of one process that has imported torch: a start costs milliseconds instead of seconds.

The process is started by exec and computes nothing itself, so its children find no thread pool of their parent's. A
child is in all else like the command: a process group, streams, signals and an exit code of its own; the processes
``python -m wasskit`` that it starts (the ranks of ``--nproc``, the trainings of a grid) are forked from it likewise.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tests.trust import hooks

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 600.0


class Command:
    """A command that the server runs."""

    def __init__(self, server: Server, pid: int, log: Path, argv: Sequence[str]) -> None:
        self.server, self.pid, self.log, self.argv = server, pid, log, list(argv)

    @property
    def code(self) -> int | None:
        """The exit code as a shell gives it; None while the command runs."""
        self.server.listen(0)
        return self.server.codes.get(self.pid)

    def wait(self, seconds: float = HANG_SECONDS) -> int | None:
        """The exit code; None if the command still runs after so long."""
        end = time.monotonic() + seconds
        while (code := self.code) is None and (left := end - time.monotonic()) > 0:
            self.server.listen(left)
        return code

    def finish(self) -> int:
        code = self.wait()
        if code is None:
            self.kill()
            raise AssertionError(f"hangs: wasskit {' '.join(self.argv)}\n{self.said}")
        return code

    def send(self, number: int) -> None:
        """Send a signal, unless the command has ended: its number stays its own until ``code`` is read."""
        if self.server.codes.get(self.pid) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the command and all that it has started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


class Server:
    """The process that forks; a context."""

    def __enter__(self) -> Server:
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "400",
            "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.server"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.codes: dict[int, int] = {}
        self._pids: list[int] = []
        self._buffer = b""
        self._number = 0
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Not by closing stdin alone: a forked process that a test has left behind would hold its other end open.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"null\n")
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, argv: Sequence[str | Path], folder: Path, **hook: Any) -> Command:
        """Start ``wasskit ARGV`` in ``folder``; ``hook`` says what befalls it (see `tests.trust.hooks`)."""
        self._number += 1
        words = [str(word) for word in argv]
        log = folder / f"said-{self._number}.txt"
        order = {"argv": words, "folder": str(folder), "log": str(log), "hook": hook}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        while not self._pids:
            self.listen(HANG_SECONDS)
        pid = self._pids.pop()
        return Command(self, pid, log, words)

    def run(self, argv: Sequence[str | Path], folder: Path, **hook: Any) -> Command:
        """`start`, and wait for the end."""
        command = self.start(argv, folder, **hook)
        command.finish()
        return command

    def listen(self, seconds: float) -> None:
        """Take in what the process reports, waiting at most so long for the first of it."""
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], seconds)[0]:
            received = os.read(self._process.stdout.fileno(), 65536)
            assert received, "the server of commands has died"
            *lines, self._buffer = (self._buffer + received).split(b"\n")
            for line in lines:
                report = json.loads(line)
                if "code" in report:
                    self.codes[report["pid"]] = report["code"]
                else:
                    self.codes.pop(report["pid"], None)  # of an earlier process of this number
                    self._pids.append(report["pid"])
            seconds = 0


# --- In the process that forks ----------------------------------------------------------------------------------------


def serve() -> None:
    """Answer orders until one is null, or stdin closes; then end what still runs."""
    _import_everything()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: set[int] = set()
    buffer, ended = b"", False
    while not ended:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            running -= _reap()
        if 0 in ready:
            received = os.read(0, 65536)
            if not received:
                break
            *lines, buffer = (buffer + received).split(b"\n")
            for order in map(json.loads, lines):
                ended = ended or order is None
                if not ended:
                    running.add(_begin(order))
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _import_everything() -> None:
    import importlib
    import pkgutil

    import matplotlib.pyplot
    import torch
    import torchvision

    import wasskit.plugins

    for module in pkgutil.walk_packages(wasskit.__path__, "wasskit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import sklearn.datasets
    import torch.distributed

    assert all((torchvision, sklearn.datasets, matplotlib.pyplot, torch.distributed))
    torch.set_num_threads(1)


def _report(**values: int) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def _reap() -> set[int]:
    ended: set[int] = set()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        _report(pid=pid, code=code if code >= 0 else 128 - code)
        ended.add(pid)


def _begin(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _be_child(order)
    _report(pid=pid)
    return pid


def _be_child(order: dict[str, Any]) -> NoReturn:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.chdir(order["folder"])
    patched: Any = subprocess.Popen
    patched._execute_child = _execute_child
    hooks.TOP, hooks.HOOK = os.getpid(), order["hook"]
    become(order["argv"], (null, log, log), new_session=True)


def become(argv: Sequence[str], streams: Sequence[int], *, new_session: bool) -> NoReturn:
    """Go on as ``wasskit ARGV`` in this fork."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*hooks.SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if new_session:
            os.setsid()
        for place, handle in enumerate(streams):
            if handle != -1 and handle != place:
                os.dup2(handle, place)
        os.closerange(3, 512)
        sys.argv = ["wasskit", *argv]
        hooks.install()
        from wasskit.__main__ import main

        main()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            shut: Any = threading
            shut._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


_plain_execute: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def _execute_child(self: Any, *given: Any) -> None:
    """In place of Popen's own: ``python -m wasskit`` is forked from this process, which is one already."""
    names = list(inspect.signature(_plain_execute).parameters)[1:]
    values = dict(zip(names, given, strict=True))
    args = values["args"]
    if list(args[:3]) != [sys.executable, "-m", "wasskit"]:
        _plain_execute(self, *given)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        self.pid = pid
        self._child_created = True
        return
    try:
        if values["env"] is not None:
            os.environ.clear()
            os.environ.update(values["env"])
        if values["start_new_session"]:
            os.setsid()
        if values["preexec_fn"] is not None:
            values["preexec_fn"]()
    except BaseException:
        os._exit(255)
    become(args[3:], (values["p2cread"], values["c2pwrite"], values["errwrite"]), new_session=False)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Keep the signal from being inherited as ignored."""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _ignore)
    # The module that the children's hooks are set in is this one.
    serve()
