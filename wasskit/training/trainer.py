"""The training loop. It owns the cadence (steps, logs, evaluations, checkpoints, stops) and knows no method.

The host never waits for the device inside a step: losses are summed and watched there and read at log points, and
once more before every evaluation and every checkpoint, so that no bad state is ever saved.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import wasskit
from wasskit.distributed.collectives import average_gradients, broadcast_module, stack_ranks
from wasskit.distributed.group import any_rank, is_lost_peer, is_main, lost_peer, rank, rank_seed, world_size
from wasskit.distributed.launch import note_saved
from wasskit.errors import Interrupted, RunFailed, UserError, WasskitError
from wasskit.system.processes import is_child
from wasskit.system.signals import ECHO_SECONDS, StopRequest, handled, name_of, stop_signals
from wasskit.training.checkpoint import (
    Checkpoints,
    check_same_config,
    preserved_rng,
    rng_state,
    seed_all,
    set_rng_state,
)
from wasskit.training.logging import EventWriter, Reporter, SilentReporter
from wasskit.training.meters import BadStep, LossMeter
from wasskit.training.run import RunDirectory
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Source, Task
from wasskit.training.validation import check_content, check_fit

__all__ = ["Best", "Summary", "Trainer"]

Precision = Literal["fp32", "bf16", "fp16"]
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
class _Clock:
    """Seconds, over all starts of a run."""

    wall: float = 0.0
    training: float = 0.0
    waiting: float = 0.0
    batches: int = 0


@dataclass
class _State:
    """Where the run is and what it has found."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated_at: int = -1
    results: dict[str, float] = field(default_factory=dict)
    best: Best | None = None
    clock: _Clock = field(default_factory=_Clock)


class Trainer:
    """Trains a task on a source of batches and keeps the records of a run.

    Args:
        run: where checkpoints and metrics go; None keeps nothing.
        epochs, steps: the length of the run, one of the two; a step is one update.
        device: where to train; the task is moved there.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16`` (with a gradient scaler).
        accumulate: batches per update. Their gradients are averaged, so a loss that couples the samples of a batch
            (a contrastive or a transport loss) sees the smaller batches one by one. An epoch's last update takes what
            is left.
        clip_norm, clip_value: bounds on the norm of the gradient and on its entries (entries first); an
            ``Optimisation`` may have its own.
        compile: compile ``task.networks()``.
        channels_last: keep convolutions' weights with channels last.
        eval_every, checkpoint_every: in epochs for a run of epochs (by default every one), in steps for a run of steps
            (by default a tenth of the run); 0 only at the end. A checkpoint is also written at the end and when the
            monitored metric is the best so far.
        log_every: training losses are recorded as means over so many steps, and before each evaluation.
        evaluate_first: also evaluate before the first step.
        seed: of all random numbers, each rank drawing its own unless the task asks for common ones.
        config: goes into the checkpoint, and a run resumes only with an equal one; by default the run's options.
        may_differ: keys of ``config`` that may differ all the same.
        defaults: what keys of ``config`` stand for that an older checkpoint does not know.
        current_names: brings the configuration of an older checkpoint to the keys and values of today.
        reporter: where progress goes.
        tensorboard: also write TensorBoard's event files.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        run: RunDirectory | None = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        compile: bool = False,
        channels_last: bool = False,
        eval_every: int | None = None,
        checkpoint_every: int | None = None,
        log_every: int = 50,
        evaluate_first: bool = False,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        may_differ: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        current_names: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        reporter: Reporter | None = None,
        tensorboard: bool = True,
    ) -> None:
        if (epochs is None) == (steps is None):
            raise ValueError("give the length of the run either in epochs or in steps")
        if precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"unknown precision {precision!r}")
        if accumulate < 1 or log_every < 1 or (epochs or steps or 0) < 1:
            raise ValueError(f"{accumulate=}, {log_every=}, {epochs=}, {steps=} must be at least 1")
        if source.steps_per_epoch < 1:
            raise UserError(
                "The training set gives no batch: it has fewer samples than a batch; choose a smaller --batch-size."
            )
        self.task = task
        self.source = source
        self.run = run
        self.device = torch.device(device)
        self.precision = precision
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.log_every = log_every
        self.evaluate_first = evaluate_first
        self.seed = seed
        self.config = dict(config) if config is not None else (run.options if run is not None else {})
        self.may_differ = frozenset(may_differ)
        self.defaults = dict(defaults or {})
        self.current_names = current_names
        self.reporter: Reporter = reporter if reporter is not None and is_main() else SilentReporter()
        self.tensorboard = tensorboard

        self._by_epoch = epochs is not None
        self.steps_per_epoch = -(-source.steps_per_epoch // accumulate)
        self.total_steps = epochs * self.steps_per_epoch if epochs is not None else int(steps or 0)
        unit = self.steps_per_epoch if epochs is not None else 1
        usual = 1 if epochs is not None else max(self.total_steps // 10, 1)
        self.eval_every = unit * (usual if eval_every is None else eval_every)
        self.checkpoint_every = unit * (usual if checkpoint_every is None else checkpoint_every)

        self.task.to(self.device)
        if channels_last:
            self.task.to(memory_format=torch.channels_last)
        broadcast_module(self.task)
        self.plan = Plan(self.total_steps, self.steps_per_epoch)
        self.optimisations = self.task.optimisations(self.plan)
        names = [o.name for o in self.optimisations]
        if len(set(names)) < len(names):
            raise ValueError(f"optimisations need names of their own, got {names}")
        if compile:
            for network in self.task.networks():
                network.compile()

        self.checkpoints = Checkpoints(run.checkpoints) if run is not None else None
        self.meter = LossMeter(self.device)
        self._state = _State()
        self.stepper = _Stepper(self)
        self._saved_at: int | None = None
        self._events: EventWriter | None = None
        self._stop: _StopSignals | None = None

    # --- The run ------------------------------------------------------------------------------------------------------

    def fit(self, resume: bool | Path | None = None) -> Summary:
        """Train to the end, from the start or from a checkpoint (``True``: the run's last one).

        Raises:
            UserError: the checkpoint is missing, damaged or of another configuration; a file cannot be written.
            RunFailed: a loss was not finite, or the device ran out of memory.
            Interrupted: a signal asked to stop; the state is saved.
        """
        if resume:
            self._restore(self._read(None if resume is True else Path(resume)))
        else:
            seed_all(self._own_seed)
            if self.run is not None:
                self.run.keep_metrics(0, 0)
        state = self._state
        if self.run is not None:
            self.run.begin()
        if self.run is not None and is_main():
            if not self._is_complete():
                self.run.remove_summary()  # of a run that went further
            note_saved(self.run.path, self._saved_at)
        if self.run is not None and self.tensorboard and is_main():
            try:
                self._events = EventWriter(self.run.tensorboard, first_step=state.step + 1 if resume else 0)
            except OSError as error:
                self._without_tensorboard(error)
        self.reporter.start(self.total_steps, state.step, self.steps_per_epoch if self._by_epoch else None)
        self._mark = time.perf_counter()
        try:
            with _StopSignals() as self._stop:
                self._train()
        except torch.cuda.OutOfMemoryError as error:
            raise RunFailed(
                f"Out of memory on {self.device} at step {state.step}: choose a smaller batch, --accumulate or "
                f"--precision bf16.{self._where_to_go_on()}"
            ) from error
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            raise lost_peer(self._where_to_go_on()) from error
        finally:
            self.reporter.stop()
            if self._events is not None:
                with contextlib.suppress(OSError):
                    self._events.close()
                self._events = None
        if self.task.monitor is not None and state.best is None and state.results:
            given = ", ".join(state.results)
            self.reporter.message(
                f"no evaluation gave {self.task.monitor!r}, hence no best.pt; there is {given}"
            )
        summary = self.summary()
        if self.run is not None:
            self.run.write_summary(summary.as_dict())
        return summary

    def summary(self) -> Summary:
        """The account of the run so far."""
        state, clock = self._state, self._state.clock
        size = getattr(self.source, "batch_size", None)
        rate = size * clock.batches / clock.training if size and clock.training > 0 else None
        return Summary(
            steps=state.step,
            epochs=state.step / self.steps_per_epoch,
            final=dict(state.results),
            best=state.best,
            wall_seconds=clock.wall,
            samples_per_second=rate,
            waiting_share=clock.waiting / clock.training if clock.training > 0 else 0.0,
        )

    @property
    def _own_seed(self) -> int:
        return self.seed if self.task.common_draws else rank_seed(self.seed)

    @property
    def progress(self) -> Progress:
        state = self._state
        return Progress(state.step, state.epoch, self.total_steps, self.steps_per_epoch)

    def _is_complete(self) -> bool:
        return self._state.evaluated_at == self._state.step >= self.total_steps

    def _train(self) -> None:
        state = self._state
        if self._is_complete():
            return
        self.task.train()
        self._settle()
        while state.step < self.total_steps:
            self.task.start_epoch(self.progress)
            epoch = state.epoch
            batches = self.source.batches(epoch, start=state.batch)
            try:
                while state.epoch == epoch and state.step < self.total_steps:
                    self._update(batches)
                    self._settle()
            finally:
                if hasattr(batches, "close"):
                    batches.close()

    def _update(self, batches: Iterator[Any]) -> None:
        """One update, from one or several batches."""
        state, stepper = self._state, self.stepper
        size = min(self.accumulate, self.source.steps_per_epoch - state.batch)
        stepper.progress = self.progress
        for place in range(size):
            asked = time.perf_counter()
            batch = next(batches, None)
            state.clock.waiting += time.perf_counter() - asked
            if batch is None:
                raise RuntimeError(
                    f"the source gave fewer than its {self.source.steps_per_epoch} batches of an epoch"
                )
            stepper.begin(size, final=place == size - 1)
            losses = self.task.step(batch, stepper)
            self._watch(losses)
            state.batch += 1
            state.clock.batches += 1
        stepper.end()
        with torch.no_grad():
            self.task.after_update(stepper.progress)
        state.step += 1
        if state.batch == self.source.steps_per_epoch:
            state.epoch, state.batch = state.epoch + 1, 0
        self._tick()

    def _watch(self, losses: Losses) -> None:
        values: dict[str, Tensor | float] = {"loss": losses.total, **self.stepper.norms, **losses.terms}
        watched = 1 if self.precision == "fp16" else 1 + len(self.stepper.norms)
        self.meter.update(self._state.step, values, watched=watched)

    def _settle(self) -> None:
        """Between two steps: log, stop, evaluate, save, whatever is due."""
        state = self._state
        evaluate = self._due(self.eval_every) or (state.step == 0 and self.evaluate_first)
        evaluate = evaluate and state.evaluated_at != state.step
        if state.step and (state.step % self.log_every == 0 or evaluate):
            self._log()
        self._leave_if_asked()
        improved = evaluate and self._evaluate()
        # A stop may have saved this step already, without the evaluation.
        unsaved = evaluate or self._saved_at != state.step
        if improved or (unsaved and self._due(self.checkpoint_every)):
            self._save(best=improved)
        if evaluate:  # which may have taken long, and been the last thing to do
            self._leave_if_asked()

    def _due(self, every: int) -> bool:
        step = self._state.step
        return step >= self.total_steps or (step > 0 and every > 0 and step % every == 0)

    def _evaluate(self) -> bool:
        """Evaluate; whether the monitored metric is the best so far."""
        state = self._state
        self._check_finite()
        self._tick(training=True)
        # Running statistics are each rank's own. One network is evaluated, the one that rank 0 saves.
        broadcast_module(self.task)
        self.task.eval()
        try:
            with preserved_rng(self.device, self.seed):
                results = self.task.evaluate(self.progress)
        finally:
            self.task.train()
        self._tick(training=False)
        epoch = self._epoch_of(state.step)
        for split, values in results.items():
            self._record(epoch, state.step, split, values)
        self.reporter.evaluation(epoch, state.step, results)
        state.results = {
            f"{split}/{name}": float(v) for split, values in results.items() for name, v in values.items()
        }
        state.evaluated_at = state.step
        value = state.results.get(self.task.monitor or "")
        if value is None or value != value:
            return False
        sign = 1 if self.task.monitor_mode == "max" else -1
        if state.best is not None and sign * value <= sign * state.best.value:
            return False
        state.best = Best(str(self.task.monitor), value, state.step, epoch, dict(state.results))
        return True

    def _log(self) -> None:
        state = self._state
        self._check_finite()
        values = self.meter.read()
        if not values:
            return
        for o, rates in zip(self.optimisations, self.stepper.rates, strict=True):
            values["lr" if len(self.optimisations) == 1 else f"lr_{o.name}"] = rates[0]
        epoch = self._epoch_of(state.step)
        self._record(epoch, state.step, "train", values)
        self.reporter.losses(epoch, state.step, values)

    def _record(self, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        if self.run is not None:
            self.run.log(epoch, step, split, values)
        if self._events is not None:
            try:
                self._events.scalars(
                    step, {f"{split}/{name}": float(value) for name, value in values.items()}
                )
                self._events.flush()
            except OSError as error:
                self._without_tensorboard(error)

    def _without_tensorboard(self, error: OSError) -> None:
        self._events = None
        self.reporter.message(
            f"TensorBoard's files cannot be written ({error.strerror}); going on without them"
        )

    def _epoch_of(self, step: int) -> int:
        """The epoch, from 1, that a step belongs to; 0 before the first step."""
        return -(-step // self.steps_per_epoch)

    def _tick(self, *, training: bool = True) -> None:
        """Book the time since the last call, and show progress now and then."""
        now = time.perf_counter()
        clock = self._state.clock
        clock.wall += now - self._mark
        if training:
            clock.training += now - self._mark
        self._mark = now
        if now - self._reported > _REPORT_SECONDS:
            self._reported = now
            summary = self.summary()
            self.reporter.advance(self._state.step, summary.samples_per_second, summary.waiting_share)

    _mark = 0.0
    _reported = 0.0

    # --- Bad states and stops -----------------------------------------------------------------------------------------

    def _check_finite(self, *, parameters: bool = False) -> None:
        """Stop all ranks if a loss (or, when asked, a parameter) of any of them is not finite."""
        bad = self.meter.bad_step()
        if bad is not None:
            raise RunFailed(f"{_describe(bad)}{self._where_to_go_on()}")
        if parameters:
            owned = [p.detach() for p in self.task.parameters() if p.is_floating_point() and p.numel()]
            norms = torch.stack(torch._foreach_norm(owned, float("inf"))) if owned else torch.zeros(1)
            if any_rank(not bool(torch.isfinite(norms).all())):
                raise RunFailed(
                    f"A parameter was not finite after step {self._state.step}, though the losses were: a gradient was "
                    f"not.{self._where_to_go_on()}"
                )

    def _where_to_go_on(self) -> str:
        if self.checkpoints is None:
            return ""
        if not self.checkpoints.last.is_file():
            return " No checkpoint had been written."
        assert self.run is not None
        at = f" (step {self._saved_at})" if self._saved_at is not None else ""
        return (
            f" The last good checkpoint is {self.checkpoints.last}{at}; go on with --resume "
            f"{shlex.quote(str(self.run.path))}."
        )

    def _leave_if_asked(self) -> None:
        """Where a signal has asked to stop, save and raise ``Interrupted``."""
        number = self._stop.agreed() if self._stop is not None else None
        if number is None:
            return
        name, state = name_of(number), self._state
        if self.run is None:
            raise Interrupted(number, f"Stopped by {name} after step {state.step}.")
        if state.step and self._saved_at != state.step:
            self._save()
        saved = (
            f"; its state is saved, go on with --resume {shlex.quote(str(self.run.path))}"
            if state.step
            else " before its first step"
        )
        raise Interrupted(number, f"Stopped by {name} after step {state.step} of {self.total_steps}{saved}.")

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, *, best: bool = False) -> None:
        """Write a checkpoint on rank 0; all ranks learn whether it could be written."""
        if self.run is None or self.checkpoints is None:
            return
        self._check_finite(parameters=True)
        content = self._content()
        failure: WasskitError | None = None
        if is_main():
            try:
                self.run.sync_metrics()
                self.checkpoints.save(content, best=best)
            except WasskitError as error:
                failure = error
        if any_rank(failure is not None):
            raise failure or UserError("Rank 0 could not write the checkpoint.")
        self._saved_at = self._state.step
        if is_main():
            note_saved(self.run.path, self._saved_at)
        self._tick(training=False)

    def _content(self) -> dict[str, Any]:
        state = self._state
        assert self.run is not None
        return {
            "version": wasskit.__version__,
            "command": self.run.command,
            "config": self.config,
            "steps_per_epoch": self.steps_per_epoch,
            "accumulate": self.accumulate,
            "state": asdict(state),
            "task": self.task.state_dict(),
            "extra": self.task.extra_state(),
            "optimisers": {o.name: o.optimizer.state_dict() for o in self.optimisations},
            "rates": self.stepper.rates,
            "scaler": self.stepper.scaler.state_dict() if self.stepper.scaler is not None else None,
            "ranks": world_size(),
            "threads": torch.get_num_threads(),
            "rng": {name: stack_ranks(value) for name, value in rng_state(self.device).items()},
            "meter": self.meter.state_dict(),
            "metrics_rows": self.run.rows if is_main() else 0,
        }

    def _read(self, path: Path | None) -> dict[str, Any]:
        if self.checkpoints is None:
            raise ValueError("a run without a directory cannot resume")
        content = self.checkpoints.load(path)
        path = path or self.checkpoints.last
        check_content(content, path, self.device)
        where = f"the checkpoint {path}"
        command = self.run.command if self.run is not None else ""
        if content["command"] != command:
            raise UserError(
                f"{where[4:].capitalize()} is of `wasskit {content['command']}`, not of `wasskit {command}`."
            )
        saved = {**self.defaults, **self.current_names(content["config"])}
        check_same_config(saved, self.config, self.may_differ, where=where)
        position = {"steps_per_epoch": self.steps_per_epoch, "accumulate": self.accumulate}
        check_same_config({key: content[key] for key in position}, position, where=where)
        check_fit(
            content,
            path,
            task=self.task,
            extra=self.task.extra_state(),
            optimisers={o.name: o.optimizer for o in self.optimisations},
            updates=self.steps_per_epoch,
            batches=self.source.steps_per_epoch,
        )
        return content

    def _restore(self, content: dict[str, Any]) -> None:
        self.task.load_state_dict(content["task"])
        self.task.load_extra_state(content["extra"])
        for o in self.optimisations:
            o.optimizer.load_state_dict(content["optimisers"][o.name])
        self.stepper.rates = content["rates"]
        if self.stepper.scaler is not None and content["scaler"] is not None:
            self.stepper.scaler.load_state_dict(content["scaler"])
        saved = content["state"]
        best = Best(**saved["best"]) if saved["best"] is not None else None
        self._state = _State(**{**saved, "best": best, "clock": _Clock(**saved["clock"])})
        self._saved_at = self._state.step
        as_many = content["ranks"] == world_size()
        if as_many or self.task.common_draws:
            place = 0 if self.task.common_draws else rank()
            set_rng_state({name: value[place] for name, value in content["rng"].items()}, self.device)
        else:
            seed_all(self._own_seed + self._state.step)
            self.reporter.message(
                f"resumed on {world_size()} ranks instead of {content['ranks']}: random numbers start anew"
            )
        self.meter.load_state_dict(content["meter"], rank() if as_many else None)
        threads = content.get("threads", torch.get_num_threads())
        if self.device.type == "cpu" and threads != torch.get_num_threads():
            self.reporter.message(
                f"resumed on {torch.get_num_threads()} threads instead of {threads}: sums may round differently"
            )
        if self.run is not None:
            self.run.keep_metrics(content["metrics_rows"], self._state.step)


class _Stepper:
    """The loop's side of one step."""

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.device
        self.progress = trainer.progress
        self.optimisations = trainer.optimisations
        self.base_rates = [
            [float(group["lr"]) for group in o.optimizer.param_groups] for o in self.optimisations
        ]
        self.rates = [list(rates) for rates in self.base_rates]
        self.norms: dict[str, Tensor] = {}
        self.scaler = torch.amp.GradScaler(self.device.type) if trainer.precision == "fp16" else None
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[trainer.precision]
        self._clip_norm, self._clip_value = trainer.clip_norm, trainer.clip_value
        self._parameters = [
            [parameter for group in o.optimizer.param_groups for parameter in group["params"]]
            for o in self.optimisations
        ]
        self._size, self.final, self._updated = 1, True, False

    def begin(self, size: int, *, final: bool) -> None:
        self._size, self.final = size, final
        self.norms = {}

    def autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        if self._size > 1:
            loss = loss / self._size
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward(retain_graph=retain_graph)

    def update(self, *names: str) -> None:
        unknown = set(names) - {o.name for o in self.optimisations}
        if unknown:
            raise ValueError(f"no optimisation is named {', '.join(sorted(unknown))}")
        if not self.final:
            return
        for place, o in enumerate(self.optimisations):
            if not names or o.name in names:
                self._update_one(place, o)

    def _update_one(self, place: int, o: Optimisation) -> None:
        average_gradients(self._parameters[place])
        parameters = [parameter for parameter in self._parameters[place] if parameter.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(o.optimizer)
        clip_value = o.clip_value if o.clip_value is not None else self._clip_value
        clip_norm = o.clip_norm if o.clip_norm is not None else self._clip_norm
        if clip_value is not None and parameters:
            nn.utils.clip_grad_value_(parameters, clip_value)
        if clip_norm is not None and parameters:
            name = "grad_norm" if len(self.optimisations) == 1 else f"grad_norm_{o.name}"
            self.norms[name] = nn.utils.clip_grad_norm_(parameters, clip_norm)
        self.rates[place] = self._rates(place, o)
        for group, rate in zip(o.optimizer.param_groups, self.rates[place], strict=True):
            group["lr"] = rate
        if self.scaler is not None:
            self.scaler.step(o.optimizer)
        else:
            o.optimizer.step()
        o.optimizer.zero_grad(set_to_none=True)
        self._updated = True

    def _rates(self, place: int, o: Optimisation) -> list[float]:
        base, schedule = self.base_rates[place], o.schedule
        if schedule is None:
            return base
        if callable(schedule):
            factor = schedule(self.progress.step)
            return [rate * factor for rate in base]
        return [rate * own(self.progress.step) for rate, own in zip(base, schedule, strict=True)]

    def end(self) -> None:
        if self.scaler is not None and self._updated:
            self.scaler.update()
        self._updated = False


class _StopSignals(StopRequest):
    """Remembers a request to stop until the loop can follow it; a second Ctrl-C is followed at once."""

    def __init__(self) -> None:
        # A launcher that forwards a terminal's Ctrl-C makes two of one.
        super().__init__(ECHO_SECONDS if world_size() > 1 or is_child() else 0.0)
        self._handled = contextlib.ExitStack()

    def __enter__(self) -> _StopSignals:
        self._handled.enter_context(handled(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handled.close()
        if self.number is not None and kind is None:
            signal.raise_signal(self.number)  # too late for the loop: it is for whoever listens now

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


def _describe(bad: BadStep) -> str:
    loss = bad.values.get("loss", math.nan)
    parts = [f"{name} {value:.4g}" for name, value in bad.values.items() if name != "loss"]
    if math.isfinite(loss):
        inside = ", ".join([f"loss {loss:.4g}", *parts])
        return f"The gradient was not finite at step {bad.step} ({inside}): the run was stopped."
    terms = f" ({', '.join(parts)})" if parts else ""
    return f"The loss was {loss:.4g} at step {bad.step}{terms}: the run was stopped."
