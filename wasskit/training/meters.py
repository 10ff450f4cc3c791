"""Means of the training loss and a watch for values that are not finite, collected on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wasskit.distributed.collectives import reduce_sum, stack_ranks
from wasskit.distributed.group import any_rank, world_size

# So many small tensors are joined into one.
_BLOCK = 256


@dataclass(frozen=True)
class BadStep:
    """The first step whose loss was not finite, and the loss and its terms at that step."""

    step: int
    values: dict[str, float]

    def describe(self) -> str:
        loss = self.values.get("loss", math.nan)
        parts = [f"{name} {value:.4g}" for name, value in self.values.items() if name != "loss"]
        if math.isfinite(loss):
            inside = ", ".join([f"loss {loss:.4g}", *parts])
            return f"The gradient was not finite at step {self.step} ({inside}): the run was stopped."
        terms = f" ({', '.join(parts)})" if parts else ""
        return f"The loss was {loss:.4g} at step {self.step}{terms}: the run was stopped."


@dataclass
class _Rows:
    """The scalars of steps that had the same names: one row per step."""

    watched: int
    steps: list[int] = field(default_factory=list)
    joined: list[Tensor] = field(default_factory=list)
    recent: list[Tensor] = field(default_factory=list)

    def append(self, step: int, row: Tensor) -> None:
        self.steps.append(step)
        self.recent.append(row)
        if len(self.recent) == _BLOCK:
            self.joined.append(torch.stack(self.recent))
            self.recent = []

    def matrix(self) -> Tensor:
        """All rows, float64 on the host. Waits for the device."""
        if self.recent:
            self.joined.append(torch.stack(self.recent))
            self.recent = []
        if len(self.joined) != 1 or self.joined[0].dtype != torch.float64 or self.joined[0].device.type != "cpu":
            self.joined = [torch.cat([block.cpu().double() for block in self.joined])]
        return self.joined[0]


class LossMeter:
    """Collects scalars that live on the device; the host reads them at log points only.

    Terms may come and go from step to step (a method that draws one of two losses): each mean is over the steps that
    had the term.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rows: dict[tuple[str, ...], _Rows] = {}

    def update(self, step: int, values: Mapping[str, Tensor | float], *, watched: int = 1) -> None:
        """Add the scalars of one step, ``loss`` first; the first ``watched`` of them must be finite."""
        names = tuple(values)
        if names not in self._rows:
            self._rows[names] = _Rows(watched)
        self._rows[names].append(step, torch.stack([self._scalar(value) for value in values.values()]))

    def bad_step(self) -> BadStep | None:
        """The first bad step on any rank, the same answer on all of them. Waits for the device."""
        bad = {names: ~torch.isfinite(rows.matrix()[:, : rows.watched]).all(1) for names, rows in self._rows.items()}
        own = min(
            (
                step
                for names, rows in self._rows.items()
                for step, b in zip(rows.steps, bad[names].tolist(), strict=True)
                if b
            ),
            default=-1,
        )
        if not any_rank(own >= 0):
            return None
        first = min(step for step in stack_ranks(torch.tensor(own)).tolist() if step >= 0)
        found: dict[str, float] = {}
        for names, rows in self._rows.items():
            places = [place for place, step in enumerate(rows.steps) if step == first]
            if not places:
                continue
            place = next((place for place in places if bad[names][place]), places[0])
            for row in stack_ranks(rows.matrix()[place]).tolist():
                # A rank's bad loss spoils the gradient of all: show the rank that it began on.
                if not found or (math.isfinite(found["loss"]) and not math.isfinite(row[0])):
                    found = dict(zip(names, row, strict=True))
        return BadStep(first, found)

    def read(self) -> dict[str, float]:
        """The means since the last reading, over steps and ranks; starts anew."""
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, rows in self._rows.items():
            sums = (reduce_sum(rows.matrix().sum(0)) / world_size()).tolist()
            for name, value in zip(names, sums, strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + len(rows.steps)
        self._rows.clear()
        return {name: totals[name] / counts[name] for name in totals}

    def state_dict(self) -> list[dict[str, Any]]:
        """The rows since the last reading, of every rank."""
        return [
            {"names": names, "watched": rows.watched, "steps": rows.steps, "rows": stack_ranks(rows.matrix())}
            for names, rows in self._rows.items()
        ]

    def load_state_dict(self, state: list[dict[str, Any]], place: int | None) -> None:
        """Restore the rows of the rank ``place``; None, on another number of ranks: their means over the ranks."""
        self._rows = {
            tuple(entry["names"]): _Rows(
                entry["watched"],
                list(entry["steps"]),
                [entry["rows"].mean(0) if place is None else entry["rows"][place].clone()],
            )
            for entry in state
        }

    def _scalar(self, value: Tensor | float) -> Tensor:
        if not isinstance(value, Tensor):
            return torch.full((), float(value), device=self.device)
        return value.detach() if value.dim() == 0 else value.detach().reshape(())
