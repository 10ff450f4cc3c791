"""The optimisers of the potentials: at which rates their weights move."""

from __future__ import annotations

import pytest
import torch

from wasskit.models.icnn import ConvICNN, DenseICNN
from wasskit.plugins.w2gn.core.task import TransportTask, rated_parameters
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import StepOptions
from wasskit.training.task import Plan


def task(start: str, factor: float) -> TransportTask:
    torch.manual_seed(0)
    transport = W2GN.dense(3, hidden=(6, 5, 4), start=start)  # type: ignore[arg-type]
    options = StepOptions(lr=1e-3, skip_lr_factor=factor, warmup_steps=0, schedule="constant", batch_size=32)
    return TransportTask(transport, options, lambda _: {})


@pytest.mark.parametrize("start", ["identity", "plain"])
def test_skip_layers_move_at_their_own_rate(start: str) -> None:
    """Adam's first step moves every weight whose gradient is not tiny by its rate, whatever the gradient."""
    own = task(start, 3.0)
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
        rate = 3e-3 if "quadratic_layers" in name else 1e-3
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


def test_every_parameter_of_a_network_over_images_is_in_one_group() -> None:
    network = ConvICNN(8, channels=1, width=4)
    others, skips = rated_parameters(network, 0.1, 3.0)
    assert (others["lr"], skips["lr"]) == (0.1, pytest.approx(0.3))
    places = [id(p) for group in (others, skips) for p in group["params"]]
    assert sorted(places) == sorted(id(p) for p in network.parameters())
    assert len(skips["params"]) == len([n for n, _ in network.named_parameters() if n.startswith("first_")])
