"""The training loop. It owns the cadence (steps, logs, evaluations, checkpoints, stops) and knows no method.

The host never waits for the device inside a step: losses are summed and watched there and read at log points, and
once more before every evaluation and every checkpoint, so that no bad state is ever saved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from wasskit.distributed.collectives import broadcast_module, in_step
from wasskit.errors import Interrupted
from wasskit.system.signals import name_of
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.checkpointing import Checkpointing
from wasskit.training.failures import check_losses
from wasskit.training.graphs import GraphedSteps
from wasskit.training.meters import LossMeter
from wasskit.training.records import Records, State
from wasskit.training.stepper import UpdateStepper
from wasskit.training.stops import StopSignals
from wasskit.training.task import Losses, Plan, Progress, Source, Task


@dataclass(eq=False, kw_only=True)
class Loop:
    """The parts of a training and what happens with them, step by step, until the plan is done or a signal comes."""

    task: Task
    source: Source
    cadence: Cadence
    plan: Plan
    state: State
    stepper: UpdateStepper
    steps: GraphedSteps
    meter: LossMeter
    records: Records
    checkpoints: Checkpointing
    seed: int
    compared: set[tuple[tuple[int, ...], torch.dtype]] = field(default_factory=set, init=False)

    @property
    def progress(self) -> Progress:
        return self.plan.at(self.state.step, self.state.epoch)

    def run(self, stop: StopSignals) -> None:
        """Train to the end, from where ``state`` is; raises ``Interrupted`` where ``stop`` is asked for."""
        state, last = self.state, self.plan.total_steps
        if state.is_complete(last):
            return
        self.task.train()
        self._between_steps(stop)
        while state.step < last:
            self.task.start_epoch(self.progress)
            epoch = state.epoch
            batches = self.source.batches(epoch, start=state.batch)
            try:
                while state.epoch == epoch and state.step < last:
                    self._update(batches)
                    self._between_steps(stop)
            finally:
                if hasattr(batches, "close"):
                    batches.close()

    def _update(self, batches: Iterator[Any]) -> None:
        """One update, from one or several batches."""
        state, stepper, of_epoch = self.state, self.stepper, self.source.steps_per_epoch
        size = min(stepper.updates.accumulate, of_epoch - state.batch)  # fewer at the end of an epoch
        stepper.progress = self.progress
        for place in range(size):
            asked = time.perf_counter()
            batch = next(batches, None)
            state.clock.waiting += time.perf_counter() - asked
            if batch is None:
                raise RuntimeError(f"the source gave fewer than its {of_epoch} batches of an epoch")
            stepper.begin(size, final=place == size - 1)
            with in_step(self.compared):
                losses = self.steps(batch)
            self._watch(losses)
            state.batch += 1
            state.clock.batches += 1
        stepper.end()
        with torch.no_grad():
            self.task.after_update(stepper.progress)
        state.step += 1
        if state.batch == of_epoch:
            state.epoch, state.batch = state.epoch + 1, 0
        self.records.tick()

    def _watch(self, losses: Losses) -> None:
        values = {"loss": losses.total, **self.stepper.norms, **losses.terms}
        self.meter.update(self.state.step, values, watched=self.stepper.watched)

    def _between_steps(self, stop: StopSignals) -> None:
        """Between two steps, what is due: log; stop, before an evaluation that may take long; evaluate; save."""
        step, plan = self.state.step, self.plan
        evaluate = self.cadence.evaluates(step, plan) and self.state.evaluated_at != step
        log = self.cadence.logs(step) or (step > 0 and evaluate)
        if log:
            self._log()
        save = self.cadence.saves(step, plan)
        self._stop_if_requested(stop, due=log or save)
        improved = evaluate and self._evaluate()
        # A stop may have saved this step already, without the evaluation.
        unsaved = evaluate or self.checkpoints.saved_at != step
        if improved or (unsaved and save):
            self._save(best=improved)
        if evaluate:  # which may have taken long, and been the last thing to do
            self._stop_if_requested(stop, due=True)

    def _log(self) -> None:
        check_losses(self.meter, self.checkpoints.advice)
        values = self.meter.read()
        if values:
            self.records.losses({**values, **self.stepper.named_rates()})

    def _evaluate(self) -> bool:
        """Evaluate; whether the monitored metric is the best so far."""
        check_losses(self.meter, self.checkpoints.advice)  # no diverged run is saved as the best
        self.records.tick()
        # Running statistics are each rank's own. One network is evaluated, the one that rank 0 saves.
        broadcast_module(self.task)
        self.task.eval()
        try:
            with preserved_rng(self.stepper.device, self.seed):
                results = self.task.evaluate(self.progress)
        finally:
            self.task.train()
        self.records.tick(training=False)
        return self.records.evaluation(results, self.task.monitor, self.task.monitor_mode)

    def _save(self, *, best: bool = False) -> None:
        self.checkpoints.save(best=best)
        self.records.tick(training=False)

    def _stop_if_requested(self, stop: StopSignals, *, due: bool) -> None:
        """Where a signal has asked to stop, save and raise ``Interrupted``."""
        step = self.state.step
        number = stop.agreed(step, due=due)
        if number is None:
            return
        stopped = f"Stopped by {name_of(number)} after step {step}"
        if self.checkpoints.run is None:
            raise Interrupted(number, f"{stopped}.")
        if step and self.checkpoints.saved_at != step:
            self._save()
        saved = f"; its state is saved, {self.checkpoints.how_to_resume()}"
        where = saved if step else " before its first step"
        raise Interrupted(number, f"{stopped} of {self.plan.total_steps}{where}.")
