"""LARS against the published optimiser's numbers; grouping; optimisers by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.gpu.device import Counts, LogicalCuda
from wasskit.errors import UserError
from wasskit.training.optim import LARS, OPTIMIZERS, build_optimizer, parameter_groups, split_parameters


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_fused_on_cuda_alone(name: str) -> None:
    weights = torch.ones(3), torch.ones(2, 2)
    expected = [nn.Parameter(w.clone()) for w in weights]
    plain = build_optimizer(name, expected, lr=0.1, weight_decay=0.1)
    assert not plain.param_groups[0]["fused"]
    with LogicalCuda() as device:
        found = [nn.Parameter(w.to("cuda")) for w in weights]
        fused = build_optimizer(name, [{"params": found}], lr=0.1, weight_decay=0.1)
        assert fused.param_groups[0]["fused"]
        for _ in range(3):
            for p, q in zip(found, expected, strict=True):
                p.grad, q.grad = 2 * p.detach(), 2 * q.detach()
            device.counts = Counts()
            fused.step()
            plain.step()
        assert not device.counts.waits
        # The counters of the steps, where there are any, and the step.
        assert device.counts.operations <= 2
        for p, q in zip(found, expected, strict=True):
            torch.testing.assert_close(p.detach().cpu(), q.detach())


def test_lars_matches_the_reference(reference: Callable[[str], dict[str, Any]]) -> None:
    numbers = reference("ssl_optim")
    params = [nn.Parameter(torch.tensor(numbers[f"lars_p{i}"])) for i in range(6)]
    optimizer = LARS(
        [{"params": [p for p in params if p.ndim > 1]}, {"params": [p for p in params if p.ndim == 1]}],
        lr=0.0,
        momentum=float(numbers["lars_momentum"]),
        weight_decay=float(numbers["lars_wd"]),
        trust=float(numbers["lars_eta"]),
    )
    for step, rate in enumerate(numbers["lars_lr"]):
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = float(rate), float(rate) / 10
        for i, p in enumerate(params):
            p.grad = torch.tensor(numbers[f"lars_g{i}"][step])
        optimizer.step()
        for i, p in enumerate(params):
            torch.testing.assert_close(
                p.detach(), torch.tensor(numbers[f"lars_out{i}"][step]), rtol=1e-10, atol=1e-14, msg=f"{i}, step {step}"
            )
    for i, p in enumerate(params):
        expected = torch.tensor(numbers[f"lars_mu{i}"])
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], expected, rtol=1e-10, atol=1e-14)


def test_lars_leaves_gradients_and_frozen_parameters_alone() -> None:
    moving, frozen = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([moving, frozen], lr=0.1, weight_decay=0.5)
    moving.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    assert torch.equal(moving.grad, torch.full((2, 2), 3.0))
    assert torch.equal(frozen.detach(), torch.ones(2, 2))
    assert not torch.equal(moving.detach(), torch.ones(2, 2))


def test_lars_state_comes_back() -> None:
    p = nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    q = nn.Parameter(p.detach().clone())
    first, second = LARS([p], lr=0.1), LARS([q], lr=0.1)
    p.grad = torch.ones_like(p)
    first.step()
    q.data.copy_(p.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    q.grad = torch.ones_like(q)
    first.step()
    second.step()
    assert torch.equal(p, q)


def test_groups_put_decay_on_weights_only() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    network[2].requires_grad_(False)
    weights, others = split_parameters(network, network)
    assert [tuple(p.shape) for p in weights] == [(2, 1, 3, 3)]
    assert [tuple(p.shape) for p in others] == [(2,), (2,), (2,)]
    groups = parameter_groups(network, lr=0.2, weight_decay=0.1, bias_lr=0.05)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.2, 0.1), (0.05, 0.0)]
    optimizer = build_optimizer("lars", groups, lr=1.0)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.05]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_takes_a_step(name: str) -> None:
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    build_optimizer(name, [p], lr=0.1).step()
    assert (p < 1).all()


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="adamw"):
        build_optimizer("adamv", [nn.Parameter(torch.ones(1))], lr=0.1)
