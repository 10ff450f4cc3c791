"""Means of potentials: values, maps and curvature, and the one network that has the same."""

from __future__ import annotations

import pytest
import torch

from wasskit.models.icnn import ConvICNN, DenseICNN, MeanPotential, Potential, QuadraticPotential


def members(count: int, dim: int = 4) -> list[Potential]:
    """Dense networks of different widths plus quadratic forms, with weights that all count."""
    made: list[Potential] = []
    for i in range(count):
        potential = QuadraticPotential(DenseICNN(dim, (6 + i, 5, 3), rank=2, strong_convexity=0.1), dim).double()
        for parameter in potential.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        potential.convexify()
        made.append(potential.requires_grad_(False))
    return made


def test_values_maps_and_curvature_are_means() -> None:
    torch.manual_seed(0)
    potentials = members(3)
    mean = MeanPotential(potentials)
    x = torch.randn(20, 4, dtype=torch.float64)
    parts = [potential.value_and_gradient(x) for potential in potentials]
    for evaluated in (mean.value_and_gradient(x), mean.frozen()(x)):
        torch.testing.assert_close(evaluated[0], sum(value for value, _ in parts) / 3)
        torch.testing.assert_close(evaluated[1], sum(gradient for _, gradient in parts) / 3)
    torch.testing.assert_close(mean(x), sum(value for value, _ in parts) / 3)
    hessians = torch.stack([torch.autograd.functional.hessian(lambda p: mean(p[None])[0], point) for point in x[:5]])
    torch.testing.assert_close(mean.hessian(x[:5]), hessians)


@pytest.mark.parametrize("framed", [True, False])
def test_one_network_has_the_same_values(framed: bool) -> None:
    torch.manual_seed(1)
    potentials = members(3)
    mean = MeanPotential(potentials if framed else [p.get_submodule("network") for p in potentials])  # type: ignore[misc]
    merged = mean.merged()
    network = merged.get_submodule("network") if framed else merged
    assert isinstance(network, DenseICNN)
    assert network.hidden == (6 + 7 + 8, 15, 9)
    x = torch.randn(50, 4, dtype=torch.float64)
    for ours, expected in zip(merged.value_and_gradient(x), mean.value_and_gradient(x), strict=True):
        torch.testing.assert_close(ours, expected)
    before = merged(x)
    merged.convexify()  # it is convex as it is
    torch.testing.assert_close(merged(x), before, rtol=0, atol=0)


def test_only_dense_networks_of_one_kind_are_merged() -> None:
    network = DenseICNN(2, (3,))
    with pytest.raises(TypeError, match="without one"):
        MeanPotential([network, QuadraticPotential(DenseICNN(2, (3,)), 2)]).merged()
    with pytest.raises(TypeError, match="only dense networks"):
        MeanPotential([network, ConvICNN(4, width=2)]).merged()
    with pytest.raises(ValueError, match="one potential at least"):
        MeanPotential([])
