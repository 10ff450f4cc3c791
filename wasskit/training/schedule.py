"""Many trainings, each by a process of its own: so many at a time, stopped together, resumed by the same command.

What a series of runs needs besides the list of its trainings: finished ones are kept, interrupted ones go on, failed
ones are tried again.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wasskit import console
from wasskit.errors import Interrupted, RunFailed, UserError, WasskitError
from wasskit.system import processes
from wasskit.system.documents import read_text
from wasskit.system.files import replace_text, writing
from wasskit.system.processes import cores
from wasskit.system.signals import StopRequest, forwarded, handled, name_of
from wasskit.training.run import RunDirectory

_POLL_SECONDS = 0.05


class Schedule:
    """Trainings below one folder. Logs go to its ``logs/``, the reasons of failures to its ``failed.json``.

    Args:
        root: the folder; a training's name is the path of its run directory below it.
        commands: name -> command line that trains it, resuming what is there.
        done: how many further trainings of the series are finished.
        jobs: how many run at a time.
        nproc: processes of each, which share the processor's threads.
        devices: what ``CUDA_VISIBLE_DEVICES`` says to the trainings of each slot, in turn; empty: what it says here.
    """

    def __init__(
        self,
        root: Path,
        commands: Mapping[str, Sequence[str]],
        *,
        done: int = 0,
        jobs: int = 1,
        nproc: int = 1,
        devices: Sequence[str] = (),
    ) -> None:
        self.root, self.jobs, self.nproc, self.devices = root, jobs, nproc, devices
        self._commands = commands
        self._pending = list(commands)
        self._done, self._total = done, done + len(commands)
        self._failed: dict[str, str] = {}
        self._refused: set[str] = set()
        self._running: dict[int, _Training] = {}
        self._awaited: set[str] = set()

    def run(self) -> None:
        """Train what is not finished.

        The first signal is passed on to the trainings, which save; a second one ends them at once.

        Raises:
            RunFailed: a training failed; the others were finished first.
            UserError: all of them were refused, as what the command asks for is wrong.
            Interrupted: a signal; the trainings were told to save their state.
        """
        if self._done:
            console.log(f"{self._done} of {self._total} trainings are finished already.")
        stop, told = StopRequest(), False
        try:
            with handled(stop):
                while self._running or (self._pending and stop.number is None):
                    if stop.number is None:
                        self._fill()
                    elif not told:
                        self._send(forwarded(stop.number))
                        told = True
                    self._collect_finished(stopped=stop.number is not None)
                    if stop.repeated:
                        break
                    time.sleep(_POLL_SECONDS)
        finally:
            for training in self._running.values():
                processes.kill(training.process)
                self._pending.append(training.name)
            self._running.clear()
            self._record_failures()
        if stop.number is not None:
            raise Interrupted(stop.number, f"Stopped by {name_of(stop.number)}: {self._account()}")
        if self._failed:
            raise self._failure()

    def _fill(self) -> None:
        """Start trainings in the free slots."""
        for slot in range(self.jobs):
            if slot in self._running or not self._pending:
                continue
            name = self._next()
            if name is None:
                return
            self._pending.remove(name)
            self._running[slot] = _Training(name, self._start(slot, name))

    def _next(self) -> str | None:
        """A pending training that no other process has: those of a killed series may still be saving."""
        for name in self._pending:
            claimant = RunDirectory(self.root / name, {}).claimant
            if claimant is None:
                return name
            if name not in self._awaited:
                self._awaited.add(name)
                console.log(
                    f"Waiting for {console.escape(f'{self.root / name}: {claimant}')} is still at it, or saving it."
                )
        return None

    def _start(self, slot: int, name: str) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // (self.jobs * self.nproc))))
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        log = log_path(self.root, name)
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                return processes.start(self._commands[name], environment, stdout=file, stderr=file)

    def _send(self, number: int) -> None:
        for training in self._running.values():
            training.process.send_signal(number)

    def _collect_finished(self, *, stopped: bool) -> None:
        """Book the trainings that have ended."""
        for slot, training in list(self._running.items()):
            code = training.process.poll()
            if code is None:
                continue
            del self._running[slot]
            name = training.name
            if code == 0:
                self._done += 1
                seconds = time.monotonic() - training.began
                console.log(f"\\[{self._done}/{self._total}] {console.escape(name)}: {seconds:.0f} s")
            elif stopped:
                self._pending.append(name)
            else:
                log = log_path(self.root, name)
                reason = last_line(log) if code > 0 else name_of(-code)
                like = next((other for other, known in self._failed.items() if known == reason), None)
                self._failed[name] = reason
                if code == UserError.exit_code:
                    self._refused.add(name)
                self._record_failures()
                console.warn(f"{name} failed ({reason if like is None else f'as {like} did'}), see {log}")

    def _failure(self) -> WasskitError:
        """What to raise where trainings have failed."""
        name, reason = next(iter(self._failed.items()))
        again = (
            "The others are finished; the same command tries the failed ones again."
            if len(self._failed) < self._total
            else "The same command tries them again."
        )
        kind = UserError if len(self._refused) == self._total else RunFailed
        count = f"{len(self._failed)} of {self._total} trainings failed"
        if self._total == len(self._failed) > 1 and len(set(self._failed.values())) == 1:
            return kind(f"{count}, all for one reason: {reason.rstrip('.')}. {again}")
        return kind(f"{count}, first {name}: {reason.rstrip('.')}. {again}")

    def _record_failures(self) -> None:
        """Keep the reasons in ``failed.json``, which is there only while a training has failed."""
        path = self.root / "failed.json"
        try:
            if self._failed:
                replace_text(path, json.dumps(self._failed, indent=2) + "\n")
            else:
                path.unlink(missing_ok=True)
        except UserError as error:  # on a full disk the trainings' own reasons are still to be told
            console.warn(str(error))

    def _account(self) -> str:
        saved = sum(RunDirectory(self.root / name, {}).has_checkpoint for name in self._pending)
        return (
            f"{self._done} of {self._total} trainings are finished, {saved} saved, "
            f"{len(self._pending) - saved} pending, {len(self._failed)} failed; the same command goes on."
        )


class _Training:
    """One that runs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.process, self.began = name, process, time.monotonic()


def log_path(root: Path, name: str) -> Path:
    """Where the lines of a training go."""
    return root / "logs" / f"{name.replace('/', '__')}.log"


def last_line(path: Path) -> str:
    """What a log ends with: the reason of a failure."""
    lines = [line.strip() for line in read_text(path, errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "it said nothing"
