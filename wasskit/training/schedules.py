"""Schedules: functions of the step. Without ``start`` and ``end`` they are factors of the base learning rate.

With them they serve for any quantity that moves during a run (a momentum, the weight of a loss term). Before step 0
and after ``total`` a schedule keeps its end values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(value: float = 1.0) -> Schedule:
    """``value`` at every step."""
    return lambda step: value


def cosine(total: int, *, start: float = 1.0, end: float = 0.0, every: int = 1) -> Schedule:
    """``end + (start - end) (1 + cos(pi s / total)) / 2`` at step s.

    ``every=steps_per_epoch`` holds the value within an epoch: with ``end=0.01`` that is MWRL's learning rate,
    ``0.01 + 0.99 (1 + cos(pi e / T)) / 2`` at epoch e of T. With ``start=0.99, end=0.999`` it is the momentum of
    MoCo's key encoder.
    """
    if total < 1 or every < 1:
        raise ValueError(f"a schedule over {total} steps in stairs of {every}")

    def schedule(step: int) -> float:
        fraction = min(max(step // every * every, 0) / total, 1.0)
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction))

    return schedule


def warmup(steps: int, then: Schedule) -> Schedule:
    """``s / steps`` times ``then(0)`` for s < steps, afterwards ``then(s - steps)``."""
    if steps < 0:
        raise ValueError(f"a warm-up of {steps} steps")
    return lambda step: then(0) * step / steps if step < steps else then(step - steps)


def warmup_cosine(total: int, warmup_steps: int, *, end: float = 0.0) -> Schedule:
    """``s / w`` for the first w steps, then a cosine from 1 to ``end`` over the remaining ``total - w``.

    A warm-up longer than the run is a run of warm-up only.
    """
    return warmup(warmup_steps, cosine(max(total - warmup_steps, 1), end=end))


def step_decay(every: int, gamma: float = 0.1) -> Schedule:
    """``gamma`` to the number of drops so far: one each ``every`` steps."""
    if every < 1:
        raise ValueError(f"a drop every {every} steps")
    return lambda step: gamma ** (step // every)


def delayed(start: int, schedule: Schedule) -> Schedule:
    """0 before step ``start``, then ``schedule`` at its own steps: a part that joins the training later."""
    return lambda step: 0.0 if step < start else schedule(step)
