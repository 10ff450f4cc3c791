"""The mean of several potentials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from wasskit.models.icnn.dense import DenseICNN
from wasskit.models.icnn.potential import Potential, QuadraticPotential


class MeanPotential(Potential):
    """The mean of potentials of the same points, ``psi(x) = 1/M sum_m psi_m(x)``: convex where all are, and its map is
    the mean of their maps.

    Args:
        members: the potentials, at least one.
    """

    def __init__(self, members: Sequence[Potential]) -> None:
        super().__init__()
        if not members:
            raise ValueError("a mean needs one potential at least")
        self.members = nn.ModuleList(members)

    @property
    def potentials(self) -> list[Potential]:
        """The members."""
        return cast("list[Potential]", list(self.members))

    def forward(self, x: Tensor) -> Tensor:
        return mean(potential(x) for potential in self.potentials)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.prepared()(x)

    def prepared(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return mean_of([potential.prepared() for potential in self.potentials])

    @torch.no_grad()
    def frozen(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return mean_of([potential.frozen() for potential in self.potentials])

    def hessian(self, x: Tensor) -> Tensor:
        return mean(potential.hessian(x) for potential in self.potentials)

    def convexify(self) -> None:
        for potential in self.potentials:
            potential.convexify()

    def center(self, x: Tensor) -> None:
        for potential in self.potentials:
            potential.center(x)

    def merged(self) -> Potential:
        """One potential with the same values, the hidden units of all members side by side.

        Raises:
            TypeError: the members are not all dense networks, or all of these plus a quadratic form.
        """
        framed = [member for member in self.potentials if isinstance(member, QuadraticPotential)]
        if not framed:
            return side_by_side(self.potentials)
        if len(framed) < len(self.potentials):
            raise TypeError("potentials with a quadratic form and without one are not merged")
        return of_forms(framed, side_by_side([member.network for member in framed]))


def members_of(potential: Potential) -> list[Potential]:
    """The potentials whose mean a potential is: itself, where it is none."""
    return potential.potentials if isinstance(potential, MeanPotential) else [potential]


def mean(parts: Iterable[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    return torch.stack(list(parts)).mean(0)


def mean_of(
    functions: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The mean of functions with their gradients."""

    def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = zip(*(function(x) for function in functions), strict=True)
        return mean(values), mean(gradients)

    return value_and_gradient


@torch.no_grad()
def side_by_side(networks: Sequence[Potential]) -> DenseICNN:
    """The mean of dense networks of as many layers as one network that is as wide as all.

    Hidden units of different members have weights of zero between them, and the output weights are divided by M.

    Raises:
        TypeError: a network is not dense.
    """
    dense = [network for network in networks if isinstance(network, DenseICNN)]
    if len(dense) < len(networks):
        raise TypeError("only dense networks are merged")
    first = dense[0]
    widths = [sum(layer) for layer in zip(*(network.hidden for network in dense), strict=True)]
    merged = DenseICNN(first.in_dim, widths, first.rank, first.activation, first.strong_convexity, first.dropout)
    merged.to(first.final_layer.weight)
    for i, layer in enumerate(merged.quadratics):
        layers = [member.quadratics[i] for member in dense]
        layer.quadratic_decomposed.copy_(torch.cat([own.quadratic_decomposed for own in layers], 2))
        layer.weight.copy_(torch.cat([own.weight for own in layers]))
        layer.bias.copy_(torch.cat([own.bias for own in layers]))
    for i, weight in enumerate(merged.hidden_weights):
        weight.copy_(torch.block_diag(*(member.hidden_weights[i] for member in dense)))
    merged.final_layer.weight.copy_(torch.cat([member.final_layer.weight for member in dense], 1) / len(dense))
    return merged


@torch.no_grad()
def of_forms(potentials: Sequence[QuadraticPotential], network: DenseICNN) -> QuadraticPotential:
    """The network plus the mean of the quadratic forms of potentials."""
    final = network.final_layer.weight.clone()
    merged = QuadraticPotential(network, network.in_dim).to(final)
    network.final_layer.weight.copy_(final)
    factors = torch.stack([potential.factor for potential in potentials]).double()
    # 1/2 |L x|^2 of the mean of the forms: any L with that square does, as the symmetric root of it.
    values, vectors = torch.linalg.eigh((factors.mT @ factors).mean(0))
    merged.factor.copy_(vectors * values.clamp_min(0.0).sqrt() @ vectors.mT)
    return merged
