"""The optimisers of the potentials: at which rates their weights move."""

from __future__ import annotations

import pytest
import torch

from wasskit.models.icnn import DenseICNN
from wasskit.plugins.w2gn.core.task import TransportTask
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import StepOptions
from wasskit.training.task import Plan


def task(start: str, output_lr: float) -> TransportTask:
    torch.manual_seed(0)
    transport = W2GN.dense(3, hidden=(6, 5, 4), start=start)  # type: ignore[arg-type]
    options = StepOptions(lr=1e-3, output_lr=output_lr, warmup_steps=0, schedule="constant", batch_size=32)
    return TransportTask(transport, options, lambda _: {})


@pytest.mark.parametrize("start", ["identity", "plain"])
def test_the_last_layer_moves_at_its_own_rate(start: str) -> None:
    """Adam's first step moves every weight whose gradient is not tiny by its rate, whatever the gradient."""
    own = task(start, 20.0)
    potential = own.transport.psi
    network = getattr(potential, "network", potential)
    assert isinstance(network, DenseICNN)
    with torch.no_grad():  # so that all layers have gradients
        network.final_layer.weight.fill_(1.0)
    before = {name: parameter.detach().clone() for name, parameter in potential.named_parameters()}
    own.transport(torch.randn(32, 3), torch.randn(32, 3)).total.backward()
    for optimisation in own.optimisations(Plan(10, 10)):
        optimisation.optimizer.step()
    for name, parameter in potential.named_parameters():
        rate = 2e-2 if "final_layer" in name else 1e-3
        # Adam divides by |g| + 1e-8. A weight of size 1 that moves by 1e-3 rounds by 6e-5 of that.
        moved = (parameter.detach() - before[name])[parameter.grad.abs() > 1e-5].abs()  # type: ignore[union-attr]
        assert len(moved)
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=2e-3, atol=0)


def test_with_one_rate_checkpoints_of_earlier_versions_fit() -> None:
    """Their optimisers have one group, of all parameters in their order."""
    own = task("identity", 1.0)
    for optimisation, module in zip(
        own.optimisations(Plan(10, 10)), (own.transport.psi, own.transport.conjugate), strict=True
    ):
        (group,) = optimisation.optimizer.param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]
