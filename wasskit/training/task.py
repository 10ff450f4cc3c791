"""What the loop asks of a method: its losses, its optimisers, its evaluation. The loop knows no method.

A method subclasses :class:`Task`, holds its networks as submodules and everything else that a resumed run needs
as buffers (a queue and its pointer, a momentum encoder) or in :meth:`Task.extra_state`. A checkpoint holds rank 0's:
buffers that training depends on are to be the same on all ranks. Running statistics may differ; rank 0's count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from wasskit.ot.precision import Precision

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Losses:
    """The loss of one batch.

    Args:
        total: the scalar that is differentiated; when it is NaN or infinite the run stops.
        terms: its parts and any diagnostics, scalars by name, logged as means since the last log point. On several
            ranks all must report the same names in the same order. Floats are accepted.
    """

    total: Tensor
    terms: Mapping[str, Tensor | float] = field(default_factory=dict)

    def weighted(self, factor: float) -> Losses:
        """All values times a factor: that of `wasskit.distributed.shard.shard_weight`, where a rank's share of the
        batch is not the ranks' mean one, before the backward pass."""
        if factor == 1.0:
            return self
        return Losses(self.total * factor, {name: value * factor for name, value in self.terms.items()})


@dataclass(frozen=True)
class Plan:
    """The length of the run: what schedules are made of. A step is one update of the parameters."""

    total_steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> float:
        return self.total_steps / self.steps_per_epoch

    def at(self, step: int, epoch: int) -> Progress:
        return Progress(step, epoch, self.total_steps, self.steps_per_epoch)


@dataclass(frozen=True)
class Progress:
    """Where the run is: ``step`` updates are done, ``epoch`` counts from 0."""

    step: int
    epoch: int
    total_steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """The part of the run that is done, from 0 to 1."""
        return self.step / self.total_steps


@dataclass
class Optimisation:
    """An optimiser and its schedule.

    Args:
        schedule: step -> factor of the learning rate that the optimiser was built with; one for all parameter
            groups, or one for each. None keeps the rate.
        name: tells it from the task's other optimisers, in checkpoints and in ``Stepper.update``.
        clip_norm, clip_value: bounds on the gradient of this optimiser's parameters, instead of the run's.
    """

    optimizer: torch.optim.Optimizer
    schedule: Schedule | Sequence[Schedule] | None = None
    name: str = "main"
    clip_norm: float | None = None
    clip_value: float | None = None


class Stepper(Protocol):
    """What the loop offers to :meth:`Task.step`."""

    progress: Progress
    device: torch.device

    @property
    def final(self) -> bool:
        """Whether this batch is the last of its step: the one after which ``update`` updates."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the run: put the forward pass inside, the backward pass outside."""

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Accumulate the gradient of ``loss`` (scaled for gradient accumulation and for fp16)."""

    def update(self, *names: str) -> None:
        """Average gradients over the ranks, clip, step the named optimisers (all without names) at their scheduled
        rate, clear their gradients. Does nothing while gradients are still being accumulated."""


class Source(Protocol):
    """Where batches come from: a pure function of epoch and position, so that a run can resume anywhere."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start + 1``, ... of an epoch."""


class StepSource:
    """Endless batches, each a function of its number: for samplers of distributions.

    Args:
        draw: batch number (from 0, over the whole run) -> batch. A sampler that draws from the global generators of
            torch or numpy is as good: their states are part of the checkpoint.
        steps_per_epoch: how many batches are called an epoch in the records.
        batch_size: samples per batch over all ranks, for the rate in the summary.
    """

    def __init__(
        self, draw: Callable[[int], Any], *, steps_per_epoch: int = 1000, batch_size: int | None = None
    ) -> None:
        self.draw = draw
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for position in range(start, self.steps_per_epoch):
            yield self.draw(epoch * self.steps_per_epoch + position)


class Task(nn.Module):
    """A method under training. Subclasses define :meth:`optimisations` and :meth:`losses` (or :meth:`step`)."""

    #: The metric, as ``split/metric``, that chooses ``best.pt``; None keeps no best.
    monitor: str | None = None
    monitor_mode: Literal["max", "min"] = "max"

    #: Whether all ranks draw the same global random numbers, those of one rank, of which a task that draws for the
    #: whole batch takes its share. Otherwise each rank draws its own.
    common_draws: bool = False

    #: The precision of the run, for the networks that :meth:`evaluate` runs. Set when the training is put together.
    precision: Precision = "fp32"

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        """The optimisers and their schedules. Called once, when the parameters are on their device."""
        raise NotImplementedError

    def losses(self, batch: Any, progress: Progress) -> Losses:
        """The loss of one batch of this rank, under the run's autocast."""
        raise NotImplementedError

    def step(self, batch: Any, stepper: Stepper) -> Losses:
        """One batch: forward, backward, update. Override for several optimisers or another order."""
        with stepper.autocast():
            losses = self.losses(batch, stepper.progress)
        stepper.backward(losses.total)
        stepper.update()
        return losses

    def kind_of_step(self, progress: Progress) -> Hashable | None:
        """What tells a step from one that is made of other operations.

        Steps of one kind, on batches of one shape, are the same operations on the device, which read nothing of the
        host but the learning rates: a CUDA graph may stand for them. None, for steps that no graph can stand for.
        """
        return None

    def start_epoch(self, progress: Progress) -> None:
        """Called before the first step of an epoch, and again when a run resumes within one: what depends on the
        epoch (which parameters are frozen, say) is set here from ``progress`` alone."""

    def after_update(self, progress: Progress) -> None:
        """Called after every update, without gradient: moving averages, projections. ``progress`` is the step's own."""

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        """Metrics by split, already reduced over the ranks; called on every rank, in evaluation mode.

        Gradients are enabled. The global random numbers are the same at every evaluation and on every rank, and
        those of training are left alone.
        """
        return {}

    def networks(self) -> list[nn.Module]:
        """The modules that ``compile=True`` compiles (their ``forward`` only)."""
        return list(self.children())

    def extra_state(self) -> dict[str, Any]:
        """State beyond parameters and buffers: tensors and plain values, the same on all ranks."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
