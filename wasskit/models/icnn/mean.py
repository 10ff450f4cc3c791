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

    def center(self, x: Tensor, spread: float = 0.0) -> None:
        for potential in self.potentials:
            potential.center(x, spread)

    def merged(self) -> QuadraticPotential:
        """One dense network plus a quadratic form with the same values, the hidden units of all members side by side.

        Raises:
            TypeError: a member is no dense network plus a quadratic form.
        """
        return side_by_side(self.potentials)


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
def side_by_side(potentials: Sequence[Potential]) -> QuadraticPotential:
    """The mean of dense networks of as many layers, each plus a quadratic form, as one network that is as wide as all.

    Hidden units of different members have weights of zero between them, and the output weights are divided by M.

    Raises:
        TypeError: a potential is no dense network plus a quadratic form.
    """
    framed = [p for p in potentials if isinstance(p, QuadraticPotential) and isinstance(p.network, DenseICNN)]
    if len(framed) < len(potentials):
        raise TypeError("only dense networks with a quadratic form are merged")
    networks = [cast(DenseICNN, potential.network) for potential in framed]
    first = networks[0]
    widths = [sum(layer) for layer in zip(*(network.hidden for network in networks), strict=True)]
    network = DenseICNN(first.in_dim, widths, first.rank, first.activation, first.strong_convexity, first.dropout)
    merged = QuadraticPotential(network, first.in_dim).to(framed[0].factor)
    for i, layer in enumerate(network.quadratics):
        layers = [member.quadratics[i] for member in networks]
        layer.quadratic_decomposed.copy_(torch.cat([own.quadratic_decomposed for own in layers], 2))
        layer.weight.copy_(torch.cat([own.weight for own in layers]))
        layer.bias.copy_(torch.cat([own.bias for own in layers]))
    for i, weight in enumerate(network.hidden_weights):
        weight.copy_(torch.block_diag(*(member.hidden_weights[i] for member in networks)))
    network.final_layer.weight.copy_(torch.cat([member.final_layer.weight for member in networks], 1) / len(networks))
    factors = torch.stack([potential.factor for potential in framed]).double()
    # 1/2 |L x|^2 of the mean of the forms: any L with that square does, as the symmetric root of it.
    values, vectors = torch.linalg.eigh((factors.mT @ factors).mean(0))
    merged.factor.copy_(vectors * values.clamp_min(0.0).sqrt() @ vectors.mT)
    return merged
