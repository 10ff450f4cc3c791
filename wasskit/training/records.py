"""What a run has found, and where it is told: ``metrics.csv``, the trackers, the reporter, the summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wasskit.distributed.group import is_main
from wasskit.training.logging import Reporter
from wasskit.training.run import RunDirectory
from wasskit.training.task import Plan
from wasskit.training.trackers import Trackers

_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Best:
    """The evaluation that the task's monitored metric was best at."""

    metric: str
    value: float
    step: int
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """What a finished run has to say. Metrics are named ``split/metric``.

    ``wall_seconds`` covers all of the run, also before it was resumed; ``samples_per_second`` and ``waiting_share``
    (time spent waiting for data) its training alone.
    """

    steps: int
    epochs: float
    final: dict[str, float]
    best: Best | None
    wall_seconds: float
    samples_per_second: float | None
    waiting_share: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Clock:
    """Seconds, over all starts of a run."""

    wall: float = 0.0
    training: float = 0.0
    waiting: float = 0.0
    batches: int = 0


@dataclass
class State:
    """Where the run is (``batch`` batches of ``epoch`` are done) and what it has found."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated_at: int = -1
    results: dict[str, float] = field(default_factory=dict)
    best: Best | None = None
    clock: Clock = field(default_factory=Clock)

    def is_complete(self, total_steps: int) -> bool:
        """Whether the last step is done and evaluated."""
        return self.evaluated_at == self.step >= total_steps

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Become the state that ``asdict`` gave."""
        best = Best(**saved["best"]) if saved["best"] is not None else None
        vars(self).update(vars(State(**{**saved, "best": best, "clock": Clock(**saved["clock"])})))


class Records:
    """Keeps ``state`` and tells of it. On ranks other than 0 nothing is written and nothing said.

    Args:
        by_epoch: whether the length of the run is given in epochs.
        batch_size: samples per batch over all ranks; None: no rate is known.
        track: names of trackers.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        reporter: Reporter,
        state: State,
        plan: Plan,
        *,
        by_epoch: bool,
        batch_size: int | None,
        track: Sequence[str] = (),
    ) -> None:
        self.run, self.reporter, self.state, self.plan = run, reporter, state, plan
        self._steps_shown = plan.steps_per_epoch if by_epoch else None
        self._batch_size = batch_size
        self._trackers = Trackers(run if is_main() else None, track, reporter.message)
        self._mark = self._reported = 0.0

    @contextlib.contextmanager
    def recording(self, *, resumed: bool) -> Iterator[None]:
        """Training happens inside: progress is shown, and trackers are open."""
        self._trackers.start(self.state.step + 1 if resumed else 0)
        self.reporter.start(self.plan.total_steps, self.state.step, self._steps_shown)
        self._mark = time.perf_counter()
        try:
            yield
        finally:
            self.reporter.stop()
            self._trackers.close()

    @property
    def epoch(self) -> int:
        """The epoch, from 1, that the last step belongs to; 0 before the first step."""
        return -(-self.state.step // self.plan.steps_per_epoch)

    def losses(self, values: Mapping[str, float]) -> None:
        """Record the means of the training losses since the last time."""
        self._write("train", values)
        self.reporter.losses(self.epoch, self.state.step, values)

    def evaluation(self, results: Mapping[str, Mapping[str, float]], monitor: str | None, monitor_mode: str) -> bool:
        """Record an evaluation, metrics by split; whether the monitored metric is the best so far."""
        state = self.state
        for split, values in results.items():
            self._write(split, values)
        self.reporter.evaluation(self.epoch, state.step, results)
        state.results = {f"{split}/{name}": float(v) for split, values in results.items() for name, v in values.items()}
        state.evaluated_at = state.step
        value = state.results.get(monitor or "")
        if value is None or value != value:
            return False
        sign = 1 if monitor_mode == "max" else -1
        if state.best is not None and sign * value <= sign * state.best.value:
            return False
        state.best = Best(str(monitor), value, state.step, self.epoch, dict(state.results))
        return True

    def tick(self, *, training: bool = True) -> None:
        """Book the time since the last call, and show progress now and then."""
        now = time.perf_counter()
        clock = self.state.clock
        clock.wall += now - self._mark
        if training:
            clock.training += now - self._mark
        self._mark = now
        if now - self._reported > _REPORT_SECONDS:
            self._reported = now
            summary = self.summary()
            self.reporter.advance(self.state.step, summary.samples_per_second, summary.waiting_share)

    def summary(self) -> Summary:
        """The account of the run so far."""
        state, clock, size = self.state, self.state.clock, self._batch_size
        return Summary(
            steps=state.step,
            epochs=state.step / self.plan.steps_per_epoch,
            final=dict(state.results),
            best=state.best,
            wall_seconds=clock.wall,
            samples_per_second=size * clock.batches / clock.training if size and clock.training > 0 else None,
            waiting_share=clock.waiting / clock.training if clock.training > 0 else 0.0,
        )

    def conclude(self, monitor: str | None) -> Summary:
        """The run is complete: write its summary."""
        state = self.state
        if monitor is not None and state.best is None and state.results:
            given = ", ".join(state.results)
            self.reporter.message(f"no evaluation gave {monitor!r}, hence no best.pt; there is {given}")
        summary = self.summary()
        if self.run is not None:
            self.run.write_summary(summary.as_dict())
        return summary

    def _write(self, split: str, values: Mapping[str, float]) -> None:
        step = self.state.step
        if self.run is not None:
            self.run.log(self.epoch, step, split, values)
        self._trackers.scalars(step, {f"{split}/{name}": float(value) for name, value in values.items()})
