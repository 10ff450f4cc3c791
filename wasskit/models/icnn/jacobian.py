"""How the map of a dense potential changes with its weights, point by point.

`wasskit.models.icnn.sweep` sums these derivatives over a batch. A second-order method needs those of every point: with
``A(x) = d grad psi(x) / d theta``, of as many columns as there are weights, its matrix is a mean of products of ``A``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.models.icnn.dense import DenseICNN
from wasskit.models.icnn.potential import QuadraticPotential, activate, relative_curvature


def dense_network(potential: nn.Module) -> DenseICNN:
    """The network of a dense potential.

    Raises:
        TypeError: it is none.
    """
    network = potential.network if isinstance(potential, QuadraticPotential) else potential
    if not isinstance(network, DenseICNN):
        raise TypeError(f"the derivatives of every point are those of dense networks, not of {type(network).__name__}")
    return network


@torch.no_grad()
def map_derivatives(potential: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    """``v^T A(x)``: the derivatives of ``<v, grad psi(x)>`` in the weights of a dense potential.

    ``<v, grad psi(x)>`` is the derivative of the value along ``v``. With ``h`` the hidden layers, ``t`` their
    derivatives along ``v``, ``k_i`` the derivative of the result in ``J_{q_i} v`` and ``w_i`` that in ``q_i(x)``::

        hidden weights       w_i h_{i-1}^T + k_i t_{i-1}^T
        linear skip weights  w_i x^T + k_i v^T
        biases               w_i
        factors Q_i          2 (x (a w_i + b k_i)^T + v (a k_i)^T),    a = x Q_i, b = v Q_i

    Args:
        potential: without dropout.
        x: points (B, D).
        v: directions (B, D).

    Returns:
        (B, P), in the order of ``potential.parameters()``.

    Raises:
        TypeError: the potential is no dense one.
    """
    network = dense_network(potential)
    found = {id(parameter): own for parameter, own in _of_network(network, x, v)}
    if isinstance(potential, QuadraticPotential):
        lifted, along = potential.lift(x), potential.lift(v)
        found[id(potential.factor)] = outer(lifted, v).add_(outer(along, x))
    return torch.cat([found[id(parameter)].flatten(1) for parameter in potential.parameters()], 1)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """``a b^T`` of every row, (B, M, N)."""
    return a.unsqueeze(2) * b.unsqueeze(1)


def _of_network(network: DenseICNN, x: Tensor, v: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of the network with its derivatives, (B, ...)."""
    layers, hidden = network.quadratics, network.hidden_weights
    products = [tuple(torch.einsum("bd,dro->bro", p, q.quadratic_decomposed) for p in (x, v)) for q in layers]
    values = [a.square().sum(1) + F.linear(x, q.weight, q.bias) for q, (a, _) in zip(layers, products, strict=True)]
    along = [2.0 * (a * b).sum(1) + F.linear(v, q.weight) for q, (a, b) in zip(layers, products, strict=True)]

    h, t = [values[0]], [along[0]]
    slopes: list[Tensor] = []
    bent: list[Tensor] = []
    for weight, value, change in zip(hidden, values[1:], along[1:], strict=True):
        change = change + F.linear(t[-1], weight)
        output, slope = activate(value + F.linear(h[-1], weight), network.activation)
        slopes.append(slope)
        bent.append(relative_curvature(output, slope, network.activation).mul_(change))
        h.append(output)
        t.append(change * slope)

    k = network.final_layer.weight.expand(len(x), -1)
    w = torch.zeros_like(k)
    yield network.final_layer.weight, t[-1]
    for i in range(len(layers) - 1, -1, -1):
        if i > 0:
            k = k * slopes[i - 1]
            w = w * slopes[i - 1] + k * bent[i - 1]
            yield hidden[i - 1], outer(w, h[i - 1]).add_(outer(k, t[i - 1]))
        layer, (a, b) = layers[i], products[i]
        yield layer.weight, outer(w, x).add_(outer(k, v))
        yield layer.bias, w
        by_products = a * w.unsqueeze(1) + b * k.unsqueeze(1)
        by_factors = torch.einsum("bd,bro->bdro", x, by_products)
        by_factors.add_(torch.einsum("bd,bro->bdro", v, a * k.unsqueeze(1)))
        yield layer.quadratic_decomposed, by_factors.mul_(2.0)
        if i > 0:
            k, w = k @ hidden[i - 1], w @ hidden[i - 1]
