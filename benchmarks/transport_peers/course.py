"""The clock that all methods are held to, and what is kept of a training on the way. Free of torch and of JAX."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Of the time, after which the map is kept."""


class Clock:
    """Seconds of processor time of this process, all its threads together, up to a budget.

    On a machine that others use too, a process of one thread gets the seconds that it would get of a core of its own.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._spent = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """From now on time counts; what counted before does not."""
        self._spent, self._since = 0.0, time.process_time()

    @property
    def seconds(self) -> float:
        return self._spent + (0.0 if self._since is None else time.process_time() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count: drawing points, scoring maps."""
        self._spent, running, self._since = self.seconds, self._since is not None, None
        try:
            yield
        finally:
            self._since = time.process_time() if running else None


@dataclass
class Course:
    """The map over the time of a training: where it takes fixed points (N, D), and after how many seconds and steps.

    Args:
        clock: of the training.
        mapped: the images of the points under the present map.
    """

    clock: Clock
    mapped: Callable[[], NDArray[Any]]
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    maps: list[NDArray[Any]] = field(default_factory=list)
    _due: int = 0

    def keep(self, step: int) -> None:
        """Keep the present map."""
        with self.clock.paused():
            self.maps.append(np.asarray(self.mapped()))
            self.seconds.append(self.clock.seconds)
            self.steps.append(step)

    def goes_on(self, step: int) -> bool:
        """Keep the map where that is due; whether there is time for another step."""
        share, before = self.clock.seconds / self.clock.budget, self._due
        self._due = sum(share >= wanted for wanted in SHARES)
        if self._due > before:
            self.keep(step)
        return share < 1

    def write(self, path: Path) -> None:
        np.savez(path, seconds=self.seconds, steps=self.steps, maps=np.stack(self.maps))

    @classmethod
    def read(cls, path: Path) -> Course:
        with np.load(path) as kept:
            lists = kept["seconds"].tolist(), kept["steps"].tolist(), [*kept["maps"]]
        return cls(Clock(0.0), lambda: lists[2][-1], *lists)
