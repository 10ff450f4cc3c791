"""What a run says while it goes on: progress on a terminal or as plain lines. Rich is imported when a bar is drawn."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

from wasskit.text import counted

LINES_OF_PACE = 6
"""Lines of progress over whose time the remaining one is estimated: later steps may be of a slower kind."""


class Reporter:
    """Where the loop reports; this one says nothing. Values are means on the host; nothing here waits for a device."""

    def start(self, total_steps: int, step: int, steps_per_epoch: int | None) -> None:
        """The run begins, or goes on at ``step``. ``steps_per_epoch`` is None for a run that is counted in steps."""

    def advance(self, step: int, rate: float | None, waiting: float) -> None:
        """``step`` updates are done; ``rate`` in samples per second, ``waiting`` the share of time spent on data."""

    def losses(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Means of the training loss and its terms since the last time."""

    def evaluation(self, epoch: int, step: int, results: Mapping[str, Mapping[str, float]]) -> None:
        """Metrics by split."""

    def message(self, text: str) -> None:
        """Something the user should know."""

    def stop(self) -> None:
        """The run has ended, in whatever way."""


class PlainReporter(Reporter):
    """Plain lines: evaluations and messages as they come, progress at most every ``interval`` seconds."""

    def __init__(self, stream: TextIO | None = None, *, interval: float = 10.0) -> None:
        self._stream = stream
        self._interval = interval
        self._loss: float | None = None

    def start(self, total_steps: int, step: int, steps_per_epoch: int | None) -> None:
        self._total, self._first = total_steps, step
        self._lines = deque([(time.monotonic(), step)], maxlen=LINES_OF_PACE)
        self._by_epoch = steps_per_epoch is not None
        length = counted(total_steps, "step")
        if steps_per_epoch is not None:
            length = f"{counted(total_steps / steps_per_epoch, 'epoch')}, {length}"
        self.message(f"training for {length}" + (f", from step {step}" if step else ""))

    def advance(self, step: int, rate: float | None, waiting: float) -> None:
        now = time.monotonic()
        if now - self._lines[-1][0] < self._interval or step == self._first:
            return
        began, first = self._lines[0]
        self._lines.append((now, step))
        left = (now - began) / max(step - first, 1) * (self._total - step)
        parts = [f"step {step}/{self._total}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if rate is not None:
            parts.append(f"{rate:.4g} samples/s")
        self.message(", ".join([*parts, f"{waiting:.0%} waiting for data", f"{_clock(left)} left"]))

    def losses(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._loss = values.get("loss")

    def evaluation(self, epoch: int, step: int, results: Mapping[str, Mapping[str, float]]) -> None:
        place = f"epoch {epoch}, step {step}" if self._by_epoch else f"step {step}"
        for split, values in results.items():
            self.message(f"{place}: {split} {_listed(values)}")

    def message(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)


class RichReporter(Reporter):
    """A progress bar with rate and remaining time, evaluations above it."""

    def __init__(self, console: Any = None) -> None:
        self._given = console
        self._progress: Any = None
        self._loss = ""

    def start(self, total_steps: int, step: int, steps_per_epoch: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._per_epoch, self._total = steps_per_epoch, total_steps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            Remaining(),
            console=self._given or Console(stderr=True),
            transient=True,
        )
        self._bar = self._progress.add_task("training", total=total_steps, completed=step, note="")
        self._progress.start()

    def advance(self, step: int, rate: float | None, waiting: float) -> None:
        if self._progress is None:
            return
        described = "training"
        if self._per_epoch is not None:
            described = f"epoch {-(-step // self._per_epoch)}/{-(-self._total // self._per_epoch)}"
        speed = f" {rate:.4g} samples/s" if rate is not None else ""
        self._progress.update(
            self._bar, completed=step, description=described, note=f"{self._loss}{speed} {waiting:.0%} waiting"
        )

    def losses(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._loss = f"loss {values['loss']:.4g}" if "loss" in values else ""

    def evaluation(self, epoch: int, step: int, results: Mapping[str, Mapping[str, float]]) -> None:
        place = f"epoch {epoch}" if self._per_epoch is not None else f"step {step}"
        for split, values in results.items():
            self.message(f"{place}: {split} {_listed(values)}")

    def message(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def make_reporter(*, quiet: bool = False, console: Any = None) -> Reporter:
    """A bar where stderr is a terminal, plain lines elsewhere, silence when asked for."""
    if quiet:
        return Reporter()
    terminal = console.is_terminal if console is not None else sys.stderr.isatty()
    return RichReporter(console) if terminal else PlainReporter()


def _listed(values: Mapping[str, float], most: int = 8) -> str:
    listed = [f"{name} {value:.4g}" for name, value in values.items()]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
