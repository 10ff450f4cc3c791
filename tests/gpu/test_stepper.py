"""An update on a logical CUDA device: averaging, both kinds of clipping and the optimisers wait for nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.gpu.device import Counts, LogicalCuda
from wasskit.ot.precision import Precision
from wasskit.training.optim import build_optimizer
from wasskit.training.stepper import Updates, UpdateStepper
from wasskit.training.task import Optimisation, Plan


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_an_update_waits_for_nothing(name: str, precision: Precision) -> None:
    """But for LARS in fp16, which is skipped where a gradient is not finite: torch's optimisers know on the device."""
    with LogicalCuda() as device:
        network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to("cuda")
        optimizer = build_optimizer(name, list(network.parameters()), lr=0.01)
        updates = Updates(precision=precision, clip_value=0.5, clip_norm=1.0)
        stepper = UpdateStepper([Optimisation(optimizer)], updates, torch.device("cuda"), Plan(4, 4))
        x = torch.ones(8, 4).to("cuda") * torch.arange(8.0).to("cuda")[:, None]
        for _ in range(2):
            device.counts = Counts()
            stepper.begin(1, final=True)
            with stepper.autocast():
                loss = network(x).float().square().mean()
            stepper.backward(loss)
            stepper.update()
            stepper.end()
        assert device.counts.waits.total() == (name == "lars" and precision == "fp16"), device.counts.waits
        assert device.counts.operations > 0
