"""Means of the training loss and a watch for values that are not finite, both kept on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wasskit.distributed.collectives import reduce_sum, stack_ranks
from wasskit.distributed.group import any_rank, world_size

__all__ = ["BadStep", "LossMeter"]

_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class BadStep:
    """The first step whose loss was not finite, and the loss and its terms at that step."""

    step: int
    values: dict[str, float]


@dataclass
class _Sums:
    total: Tensor
    count: int
    first_bad: Tensor
    bad_values: Tensor


class LossMeter:
    """Collects scalars that live on the device; the host reads them at log points only.

    Terms may come and go from step to step (a method that draws one of two losses): each mean is over the steps that
    had the term.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[tuple[str, ...], _Sums] = {}

    @torch.no_grad()
    def update(self, step: int, values: Mapping[str, Tensor | float], *, watched: int = 1) -> None:
        """Add the scalars of one step, ``loss`` first; the first ``watched`` of them must be finite."""
        names = tuple(values)
        vector = torch.stack([self._scalar(value) for value in values.values()]).to(self._dtype)
        sums = self._sums.get(names)
        if sums is None:
            never = torch.full((), _NEVER, dtype=torch.int64, device=self.device)
            sums = self._sums[names] = _Sums(torch.zeros_like(vector), 0, never, torch.zeros_like(vector))
        bad = ~torch.isfinite(vector[:watched]).all() & (sums.first_bad == _NEVER)
        sums.first_bad = torch.where(bad, step, sums.first_bad)
        sums.bad_values = torch.where(bad, vector, sums.bad_values)
        sums.total += vector
        sums.count += 1

    def bad_step(self) -> BadStep | None:
        """The first bad step on any rank, the same answer on all of them. Waits for the device."""
        own = min(((int(sums.first_bad), names) for names, sums in self._sums.items()), default=(_NEVER, ()))
        if not any_rank(own[0] != _NEVER):
            return None
        steps = stack_ranks(torch.tensor(own[0], dtype=torch.int64)).tolist()
        first = min(steps)
        found: dict[str, float] = {}
        for names, sums in self._sums.items():
            rows = stack_ranks(torch.cat([sums.first_bad.to(self._dtype)[None], sums.bad_values])).tolist()
            for row, step in zip(rows, steps, strict=True):
                if step != first or row[0] != first:
                    continue
                # A rank's bad loss soon spoils the gradient of all: show the rank that it began on.
                if not found or (math.isfinite(found["loss"]) and not math.isfinite(row[1])):
                    found = dict(zip(names, row[1:], strict=True))
        return BadStep(first, found)

    def read(self) -> dict[str, float]:
        """The means since the last reading, over steps and ranks; starts anew."""
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, sums in self._sums.items():
            means = (reduce_sum(sums.total) / world_size()).tolist()
            for name, value in zip(names, means, strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + sums.count
        self._sums.clear()
        return {name: totals[name] / counts[name] for name in totals}

    def state_dict(self) -> list[dict[str, Any]]:
        """The open sums of every rank."""
        return [
            {"names": list(names), "count": sums.count, "total": stack_ranks(sums.total).cpu()}
            for names, sums in self._sums.items()
        ]

    def load_state_dict(self, state: list[dict[str, Any]], place: int) -> None:
        """Restore the sums of the rank ``place``."""
        self._sums.clear()
        for entry in state:
            total = entry["total"][place].to(self.device, self._dtype)
            never = torch.full((), _NEVER, dtype=torch.int64, device=self.device)
            self._sums[tuple(entry["names"])] = _Sums(total, entry["count"], never, torch.zeros_like(total))

    def _scalar(self, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().reshape(())
        return torch.full((), float(value), device=self.device)
