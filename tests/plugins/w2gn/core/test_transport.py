"""Pairs of potentials that are means of several: what each member is trained by, and what is left of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wasskit.plugins.w2gn.core.transport import W2GN


def pairs(count: int, **settings: Any) -> tuple[list[W2GN], torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(200, 3), torch.randn(200, 3) @ torch.randn(3, 3) + 1.0
    made = [W2GN.dense(3, hidden=(8, 6), start=(x, y), evaluations=6, **settings) for _ in range(count)]
    for pair in made:
        for potential in (pair.psi, pair.conjugate):
            potential.get_parameter("network.final_layer.weight").data.uniform_(0.0, 0.1)
    return made, x, y


@pytest.mark.parametrize("settings", [{}, {"dual": "target"}, {"refine": "none"}], ids=str)
def test_members_that_are_apart_get_the_gradients_of_their_own_objectives(settings: dict[str, Any]) -> None:
    made, x, y = pairs(3, **settings)
    mean = W2GN.mean(made)
    objective = mean(x, y, apart=True)
    objective.total.backward()
    found = [[parameter.grad for parameter in pair.parameters()] for pair in made]
    totals = []
    for pair, gradients in zip(made, found, strict=True):
        pair.zero_grad()
        own = pair(x, y)
        own.total.backward()
        totals.append(own.total.item())
        for parameter, gradient in zip(pair.parameters(), gradients, strict=True):
            assert gradient is not None
            torch.testing.assert_close(3 * gradient, parameter.grad)
    assert objective.total.item() == pytest.approx(sum(totals) / 3)
    assert mean(x, y).total.item() != pytest.approx(sum(totals) / 3, rel=1e-4)


def test_the_merged_pair_has_the_same_maps_and_settings() -> None:
    made, x, y = pairs(2, dual="target")
    mean = W2GN.mean(made)
    merged = mean.merged()
    assert (merged.dual, merged.evaluations) == ("target", 6)
    torch.testing.assert_close(merged.forward_map(x), (made[0].forward_map(x) + made[1].forward_map(x)) / 2)
    torch.testing.assert_close(merged.forward_map(x), mean.forward_map(x))
    torch.testing.assert_close(
        merged.inverse_map(y, refine="lbfgs"), mean.inverse_map(y, refine="lbfgs"), rtol=1e-3, atol=1e-3
    )
    assert made[0].merged() is made[0]
