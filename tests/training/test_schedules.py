"""Schedules against the published runs' numbers and at their ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wasskit.training.schedules import constant, cosine, delayed, step_decay, warmup, warmup_cosine

Load = Callable[[str], dict[str, Any]]


def test_cosine_per_epoch_is_that_of_mwrl(reference: Load) -> None:
    numbers = reference("mwrl_schedule")
    epochs, per_epoch = int(numbers["epochs"]), 7
    schedule = cosine(epochs * per_epoch, end=0.01, every=per_epoch)
    rates = np.array([float(numbers["lr0"]) * schedule(step) for step in range(epochs * per_epoch)])
    np.testing.assert_allclose(rates.reshape(epochs, per_epoch), np.tile(numbers["lr"][:, None], per_epoch), rtol=1e-12)


@pytest.mark.parametrize("case", [0, 1])
def test_warmup_cosine_is_that_of_the_published_runs(reference: Load, case: int) -> None:
    numbers = reference("ssl_optim")
    epochs, per_epoch, batch, weights, biases = numbers[f"lr{case}_args"]
    schedule = warmup_cosine(int(epochs * per_epoch), int(10 * per_epoch), end=0.001)
    factors = np.array([schedule(int(step)) for step in numbers[f"lr{case}_steps"]])
    expected = numbers[f"lr{case}_out"]
    np.testing.assert_allclose(np.outer(factors, [weights, biases]) * batch / 256, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("case", [0, 1])
def test_cosine_is_the_momentum_of_the_key_encoder(reference: Load, case: int) -> None:
    numbers = reference("ssl_optim")
    epochs, per_epoch, start, end = numbers[f"momentum{case}_args"]
    schedule = cosine(int(epochs * per_epoch), start=start, end=end)
    momenta = [schedule(int(step)) for step in numbers[f"momentum{case}_steps"]]
    np.testing.assert_allclose(momenta, numbers[f"momentum{case}_out"], rtol=1e-12)


def test_ends_are_kept_beyond_the_run() -> None:
    schedule = cosine(10, start=2.0, end=0.5)
    assert (schedule(-1), schedule(0), schedule(10), schedule(99)) == (2.0, 2.0, 0.5, 0.5)
    assert cosine(10)(5) == pytest.approx(0.5)
    assert constant(3.0)(7) == 3.0


def test_step_decay() -> None:
    assert [step_decay(3, 0.5)(step) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_delayed_and_warmup() -> None:
    assert [delayed(2, constant())(step) for step in range(4)] == [0, 0, 1, 1]
    assert [warmup(4, constant(2.0))(step) for step in range(6)] == [0, 0.5, 1, 1.5, 2, 2]


def test_a_warmup_longer_than_the_run_is_finite() -> None:
    schedule = warmup_cosine(5, 10)
    assert [schedule(step) for step in range(5)] == [0, 0.1, 0.2, 0.3, 0.4]
    assert math.isfinite(warmup_cosine(5, 5)(5))


@pytest.mark.parametrize(
    "make", [lambda: cosine(0), lambda: cosine(5, every=0), lambda: step_decay(0), lambda: warmup(-1, constant())]
)
def test_empty_schedules_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()
