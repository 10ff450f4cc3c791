"""Checks in sections, each within its share of the time, one line a check, and the table of what they found."""

from __future__ import annotations

import contextlib
import csv
import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["Bench", "Case", "Finding", "Section", "captured", "counted_waits"]

GRACE_SECONDS = 20.0
"""After the deadline, until a check that cannot be interrupted ends the process, with the line where it hangs."""


class Finding(NamedTuple):
    """What a check measured, and what it expected, in words."""

    passed: bool
    measured: str
    expected: str


Case = tuple[str, Callable[[], Finding]]
"""A check: its name within its section, and what runs it."""


class OutOfTime(BaseException):
    """Raised in a check at the end of its section's time; no ordinary handler may catch it."""


@dataclass(frozen=True)
class Section:
    """Checks of one kind.

    Args:
        seconds: what is kept for this section while earlier ones run; it may take longer where they left time.
        cases: gives the checks, in order of importance; those that do not fit are left out by name.
    """

    name: str
    seconds: float
    cases: Callable[[Bench], Iterable[Case]]


@dataclass
class Bench:
    """The device, the time and the record.

    Args:
        dry: everything small, to try the checks themselves.
        seconds: the time of all sections together.
        out: the folder of the table, ``gpu.csv`` and ``gpu.md``; None writes none.
    """

    device: torch.device
    dry: bool
    seconds: float
    out: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What an earlier check measured for later ones."""
    lines: list[tuple[str, Finding]] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    scratch: Path = field(init=False)

    def __post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="wasskit-gpu-")
        self.scratch = Path(self._folder.name)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def remaining(self) -> float:
        """Seconds until the deadline of all."""
        return self.seconds - (time.perf_counter() - self.began)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds_per_call(self, call: Callable[[], object], calls: int, *, warm: int = 2, rounds: int = 3) -> float:
        """The best mean of a few rounds of so many calls."""
        for _ in range(warm):
            call()
        times = []
        for _ in range(1 if self.dry else rounds):
            self.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            self.synchronize()
            times.append((time.perf_counter() - start) / calls)
        return min(times)

    def run(self, sections: Iterable[Section]) -> bool:
        """Run all that time allows; whether every check that ran has passed."""
        sections = list(sections)
        with self._watched():
            for place, section in enumerate(sections):
                later = sum(other.seconds for other in sections[place + 1 :])
                self._run_section(section, self.remaining() - later)
        return self._conclude()

    def _run_section(self, section: Section, allowed: float) -> None:
        end = time.perf_counter() + max(allowed, 0.0)
        left = self.left.setdefault(section.name, [])
        try:
            for name, case in section.cases(self):
                if time.perf_counter() >= end:
                    left.append(name)
                    continue
                try:
                    with _interrupted(end - time.perf_counter()):
                        finding = case()
                except OutOfTime:
                    left.append(name)
                except Exception as error:  # of any kind: the other checks go on
                    finding = Finding(False, _reason(error), "no error")
                    traceback.print_exc()
                    self._record(f"{section.name}/{name}", finding)
                else:
                    self._record(f"{section.name}/{name}", finding)
        except ModuleNotFoundError as error:
            self._record(section.name, Finding(False, f"needs the package {error.name}, which is missing", "no error"))
        except Exception as error:  # in what lists the checks
            traceback.print_exc()
            self._record(section.name, Finding(False, _reason(error), "no error"))
        if left:
            print(f"LEFT {section.name}: {', '.join(left)}", flush=True)

    def _record(self, name: str, finding: Finding) -> None:
        finding = finding._replace(measured=" ".join(finding.measured.split()))  # one line
        word = "PASS" if finding.passed else "FAIL"
        print(f"CHECK {name}: {word} {finding.measured} ({finding.expected})", flush=True)
        self.lines.append((name, finding))
        self._write()

    def _write(self) -> None:
        """The table so far: of a process that is killed, all but its last check is there."""
        if self.out is None:
            return
        rows = [(name, "PASS" if f.passed else "FAIL", f.measured, f.expected) for name, f in self.lines]
        rows += [(f"{section}/{name}", "LEFT", "", "") for section, names in self.left.items() for name in names]
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "gpu.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("check", "result", "measured", "expected"), *rows])
        table = ["| check | result | measured | expected |", "| --- | --- | --- | --- |"]
        table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        (self.out / "gpu.md").write_text("\n".join(table) + "\n", encoding="utf-8")

    def _conclude(self) -> bool:
        self._write()
        failed = [name for name, finding in self.lines if not finding.passed]
        left = sum(map(len, self.left.values()))
        took = time.perf_counter() - self.began
        print(f"{len(failed)} failed of {len(self.lines)} checks in {took:.0f} s; {left} left out", flush=True)
        for name in failed:
            print(f"FAILED {name}", flush=True)
        self._folder.cleanup()
        return not failed

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside, a check that hangs beyond the deadline ends the process."""
        with os.fdopen(os.dup(2), "w") as errors:
            faulthandler.dump_traceback_later(max(self.remaining(), 0.0) + GRACE_SECONDS, exit=True, file=errors)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _interrupted(seconds: float) -> Iterator[None]:
    """Inside, ``OutOfTime`` is raised when the time is over."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _reason(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


@contextlib.contextmanager
def captured(path: Path) -> Iterator[None]:
    """Inside, what this process and its children print goes to a file."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    path.write_bytes(b"")
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("a", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            # The streams too, which a caller may have put elsewhere than the descriptors.
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            file.flush()
            for number, own in enumerate(kept, 1):
                os.dup2(own, number)
                os.close(own)


@contextlib.contextmanager
def counted_waits(bench: Bench) -> Iterator[list[str]]:
    """Inside, collects what makes the host wait for the device, as torch knows it."""
    found: list[str] = []
    if not bench.is_cuda:
        yield found
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [str(warning.message) for warning in said if "called a synchronizing" in str(warning.message)]
