"""One update of the parameters: precision, accumulation, clipping, learning rates."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wasskit.distributed.gradients import GradientAverage
from wasskit.ot.precision import PRECISIONS, Precision, autocast
from wasskit.training.task import Optimisation, Plan

__all__ = ["Precision", "UpdateStepper", "Updates"]


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How an update is made.

    Args:
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16`` (with a gradient scaler).
        accumulate: batches per update. Their gradients are averaged, so a loss that couples the samples of a batch
            (a contrastive or a transport loss) sees the smaller batches one by one. An epoch's last update takes what
            is left.
        clip_norm, clip_value: bounds on the norm of the gradient and on its entries (entries first); an
            ``Optimisation`` may have its own.
        cuda_graph: record steps that the task calls alike as CUDA graphs (`wasskit.training.graphs`).
    """

    precision: Precision = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} must be at least 1")


class UpdateStepper:
    """The loop's side of :meth:`wasskit.training.task.Task.step`: a ``Stepper``."""

    def __init__(
        self, optimisations: Sequence[Optimisation], updates: Updates, device: torch.device, plan: Plan
    ) -> None:
        names = [o.name for o in optimisations]
        if len(set(names)) < len(names):
            raise ValueError(f"optimisations need names of their own, got {names}")
        self.optimisations = list(optimisations)
        self.updates = updates
        self.device = device
        self.progress = plan.at(0, 0)
        self.rates = [[float(group["lr"]) for group in o.optimizer.param_groups] for o in optimisations]
        self.norms: dict[str, Tensor] = {}
        self.scaler = torch.amp.GradScaler(device.type) if updates.precision == "fp16" else None
        self._base_rates = [list(rates) for rates in self.rates]
        self._parameters = [
            [parameter for group in o.optimizer.param_groups for parameter in group["params"]] for o in optimisations
        ]
        self._average = GradientAverage(parameter for own in self._parameters for parameter in own)
        self._size, self.final, self._updated, self._averaged = 1, True, False, False
        self.stepped: list[int] = []
        self._rate_tensors: list[list[Tensor]] = []
        self._rates_read: Literal["numbers", "tensors", "recorded"] = "numbers"

    def begin(self, size: int, *, final: bool) -> None:
        """A batch begins: one of ``size`` that make an update, the last one where ``final``."""
        self._size, self.final, self._averaged = size, final, False
        self.norms, self.stepped = {}, []

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.updates.precision)

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        if self._size > 1:
            loss = loss / self._size
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        if self.final:
            self._average.start()
            self._averaged = False
        loss.backward(retain_graph=retain_graph)

    def update(self, *names: str) -> None:
        unknown = set(names) - {o.name for o in self.optimisations}
        if unknown:
            raise ValueError(f"no optimisation is named {', '.join(sorted(unknown))}")
        if not self.final:
            return
        if not self._averaged:
            self._average.finish()
            self._averaged = True
        for place, o in enumerate(self.optimisations):
            if not names or o.name in names:
                self._update_one(place, o)

    def end(self) -> None:
        """The update is made."""
        if self.scaler is not None and self._updated:
            self.scaler.update()
        self._updated = False

    @property
    def watched(self) -> int:
        """How many values of a step must be finite: the loss and, but for fp16, the norms of the gradients."""
        return 1 if self.scaler is not None else 1 + len(self.norms)

    def named_rates(self) -> dict[str, float]:
        """The learning rates of the last update, of each optimiser's first group."""
        return {self._named("lr", o): rates[0] for o, rates in zip(self.optimisations, self.rates, strict=True)}

    def _named(self, word: str, o: Optimisation) -> str:
        return word if len(self.optimisations) == 1 else f"{word}_{o.name}"

    def _update_one(self, place: int, o: Optimisation) -> None:
        parameters = [parameter for parameter in self._parameters[place] if parameter.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(o.optimizer)
        clip_value = o.clip_value if o.clip_value is not None else self.updates.clip_value
        clip_norm = o.clip_norm if o.clip_norm is not None else self.updates.clip_norm
        if clip_value is not None and parameters:
            nn.utils.clip_grad_value_(parameters, clip_value)
        if clip_norm is not None and parameters:
            self.norms[self._named("grad_norm", o)] = nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._set_rates(place)
        if self.scaler is not None:
            self.scaler.step(o.optimizer)
        else:
            o.optimizer.step()
        o.optimizer.zero_grad(set_to_none=True)
        self.stepped.append(place)
        self._updated = True

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers."""
        return [group for o in self.optimisations for group in o.optimizer.param_groups]

    @contextlib.contextmanager
    def rates_on_device(self) -> Iterator[None]:
        """Inside, optimisers read their rates from tensors, as in a graph, so that a step rounds alike in and out of
        one. Afterwards their groups hold numbers again, which is what checkpoints hold."""
        if not self._rate_tensors:
            self._rate_tensors = [[torch.zeros((), device=self.device) for _ in rates] for rates in self.rates]
        self._rates_read = "tensors"
        try:
            yield
        finally:
            self._rates_read = "numbers"
            for group, rate in zip(self.groups(), itertools.chain.from_iterable(self.rates), strict=True):
                group["lr"] = rate

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Inside `rates_on_device`: what is run is recorded, to be run later at the rates of that time."""
        self._rates_read = "recorded"
        for group in self.groups():
            group["capturable"] = True
        try:
            yield
        finally:
            self._rates_read = "tensors"
            for group in self.groups():
                group["capturable"] = False

    def replay(self, stepped: Sequence[int], norms: dict[str, Tensor]) -> None:
        """What the host does for a recorded update of these optimisers, before the device runs it."""
        with self.rates_on_device():
            for place in stepped:
                self._set_rates(place)
        self.norms, self.stepped, self._updated = dict(norms), list(stepped), bool(stepped)

    def forget_gradients(self) -> None:
        """Drop what a step has left that did not come to its end."""
        for o in self.optimisations:
            o.optimizer.zero_grad(set_to_none=True)

    def _set_rates(self, place: int) -> None:
        """The rates of an optimiser at the present step."""
        o = self.optimisations[place]
        rates = self.rates[place] = self._scheduled(place, o)
        for number, (group, rate) in enumerate(zip(o.optimizer.param_groups, rates, strict=True)):
            group["lr"] = rate
            if self._rates_read != "numbers":
                group["lr"] = self._rate_tensors[place][number]
                if self._rates_read == "tensors":
                    group["lr"].fill_(rate)

    def _scheduled(self, place: int, o: Optimisation) -> list[float]:
        base, schedule = self._base_rates[place], o.schedule
        if schedule is None:
            return base
        if callable(schedule):
            factor = schedule(self.progress.step)
            return [rate * factor for rate in base]
        return [rate * own(self.progress.step) for rate, own in zip(base, schedule, strict=True)]
