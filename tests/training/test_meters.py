"""The meter over many steps: means, the first bad step, and its state."""

from __future__ import annotations

import math

import torch

from wasskit.training.meters import LossMeter

CPU = torch.device("cpu")


def test_means_over_many_blocks() -> None:
    meter = LossMeter(CPU)
    for step in range(700):
        meter.update(
            step, {"loss": torch.tensor(float(step)), "half": torch.tensor([0.5], dtype=torch.bfloat16), "one": 1}
        )
    assert meter.bad_step() is None
    assert meter.read() == {"loss": 349.5, "half": 0.5, "one": 1.0}
    assert meter.read() == {}


def test_float32_sums_do_not_drift() -> None:
    meter = LossMeter(CPU)
    for step in range(2000):
        meter.update(step, {"loss": torch.tensor(1e8 + 8 * (step % 2))})
    assert meter.read() == {"loss": 1e8 + 4}


def test_the_first_bad_step_of_all_kinds() -> None:
    meter = LossMeter(CPU)
    for step in range(600):
        value = math.nan if step in (300, 500) else 1.0
        meter.update(step, {"loss": torch.tensor(value), "a" if step % 2 else "b": torch.tensor(float(step))})
    bad = meter.bad_step()
    assert bad is not None
    assert (bad.step, bad.values["b"]) == (300, 300.0)
    assert math.isnan(bad.values["loss"])


def test_diagnostics_may_be_undefined() -> None:
    meter = LossMeter(CPU)
    meter.update(0, {"loss": torch.tensor(1.0), "norm": torch.tensor(2.0), "aside": torch.tensor(math.nan)}, watched=2)
    assert meter.bad_step() is None
    meter.update(1, {"loss": torch.tensor(1.0), "norm": torch.tensor(math.inf), "aside": torch.tensor(0.0)}, watched=2)
    bad = meter.bad_step()
    assert bad is not None
    assert bad.step == 1


def test_state_comes_back() -> None:
    meter, other = LossMeter(CPU), LossMeter(CPU)
    for step in range(5):
        meter.update(step, {"loss": torch.tensor(0.1 * step)})
    other.load_state_dict(meter.state_dict(), 0)
    for both in (meter, other):
        both.update(5, {"loss": torch.tensor(7.0)})
    assert meter.read() == other.read()


def test_another_number_of_ranks_goes_on_with_the_means_of_all() -> None:
    rows = torch.tensor([[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0], [7.0, 70.0]]], dtype=torch.float64)
    state = [{"names": ("loss", "term"), "watched": 1, "steps": [4, 5], "rows": rows}]
    meter = LossMeter(CPU)
    meter.load_state_dict(state, None)
    meter.update(6, {"loss": torch.tensor(1.0), "term": torch.tensor(20.0)})
    assert meter.read() == {"loss": 3.0, "term": 100 / 3}
