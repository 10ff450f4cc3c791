"""A training, from a task and a source of batches to the records of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from wasskit.distributed.collectives import broadcast_module
from wasskit.distributed.group import is_main
from wasskit.errors import UserError
from wasskit.training.cadence import Cadence
from wasskit.training.checkpointing import Checkpointing, SavedConfig
from wasskit.training.failures import explained
from wasskit.training.graphs import GraphedSteps
from wasskit.training.logging import Reporter
from wasskit.training.loop import Loop
from wasskit.training.meters import LossMeter
from wasskit.training.records import Records, State, Summary
from wasskit.training.run import RunDirectory
from wasskit.training.stepper import Updates, UpdateStepper
from wasskit.training.stops import StopSignals
from wasskit.training.task import Source, Task

__all__ = ["Summary", "Trainer"]


class Trainer:
    """Trains a task on a source of batches and keeps the records of a run.

    Args:
        run: where checkpoints and metrics go; None keeps nothing.
        cadence: the length of the run, and when it logs, evaluates and saves.
        updates: precision, accumulation and clipping.
        device: where to train; the task is moved there.
        compile: compile ``task.networks()``.
        channels_last: keep convolutions' weights with channels last.
        seed: of all random numbers, each rank drawing its own unless the task asks for common ones.
        config: what checkpoints keep of the configuration; by default the run's options.
        reporter: where progress goes.
        track: trackers besides ``metrics.csv``: ``tensorboard`` or names of `wasskit.training.trackers.TRACKERS`.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        run: RunDirectory | None = None,
        *,
        cadence: Cadence,
        updates: Updates | None = None,
        device: torch.device | str = "cpu",
        compile: bool = False,
        channels_last: bool = False,
        seed: int = 0,
        config: SavedConfig | None = None,
        reporter: Reporter | None = None,
        track: Sequence[str] = ("tensorboard",),
    ) -> None:
        batches, updates, device = source.steps_per_epoch, updates or Updates(), torch.device(device)
        if batches < 1:
            raise UserError(
                "The training set gives no batch: it has fewer samples than a batch; choose a smaller --batch-size."
            )
        self.plan = cadence.plan(-(-batches // updates.accumulate))
        task.to(device)
        for part in task.modules():
            if isinstance(part, Task):
                part.precision = updates.precision
        if channels_last:
            task.to(memory_format=torch.channels_last)
        broadcast_module(task)
        self.stepper = UpdateStepper(task.optimisations(self.plan), updates, device, self.plan)
        if compile:
            for network in task.networks():
                network.compile()
        reporter = reporter if reporter is not None and is_main() else Reporter()
        state, meter = State(), LossMeter(device)
        self.records = Records(
            run, reporter, state, self.plan, by_epoch=cadence.epochs is not None,
            batch_size=getattr(source, "batch_size", None), track=track,
        )  # fmt: skip
        self.checkpoints = Checkpointing(
            run, config, task=task, stepper=self.stepper, meter=meter, state=state, plan=self.plan,
            batches=batches, seed=seed, say=reporter.message,
        )  # fmt: skip
        self.loop = Loop(
            task=task, source=source, cadence=cadence, plan=self.plan, state=state, stepper=self.stepper,
            steps=GraphedSteps(task, self.stepper, reporter.message), meter=meter, records=self.records,
            checkpoints=self.checkpoints, seed=seed,
        )  # fmt: skip

    def fit(self, resume: bool | Path | None = None) -> Summary:
        """Train to the end, from the start or from a checkpoint (``True``: the run's last one).

        Raises:
            UserError: the checkpoint is missing, damaged or of another configuration; a file cannot be written.
            RunFailed: a loss was not finite, or the device ran out of memory.
            Interrupted: a signal asked to stop; the state is saved.
        """
        loop, checkpoints, config = self.loop, self.checkpoints, self.checkpoints.config
        checkpoints.start(resume)
        with (
            self.records.recording(resumed=bool(resume)),
            explained(
                self.stepper.device, lambda: loop.state.step, config.options or config.values, checkpoints.advice
            ),
            StopSignals() as stop,
        ):
            loop.run(stop)
        return self.records.conclude(loop.task.monitor)

    def summary(self) -> Summary:
        """The account of the run so far."""
        return self.records.summary()
