"""The fully connected network, with input-quadratic skip layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.models.icnn.potential import Activation, Potential, activate, relative_curvature
from wasskit.models.icnn.sweep import Form, Monomials, Products, value, value_and_gradient
from wasskit.models.weights import difference

MONOMIALS_UP_TO = 8
"""Dimension up to which the quadratic skip layers are evaluated through the monomials of the input."""


class ConvexQuadratic(nn.Module):
    """Parameters of one input-quadratic skip layer, ``q(x)_o = sum_r (sum_d x_d Q[d, r, o])^2 + (W x + b)_o``.

    The names and shapes are those of the published checkpoints: ``quadratic_decomposed`` (in, rank, out),
    ``weight`` (out, in), ``bias`` (out).
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        scale = in_features**-0.5
        # On white inputs the squares then have mean 1/2, half the variance of the linear part.
        self.quadratic_decomposed = nn.Parameter(
            torch.randn(in_features, rank, out_features) * scale * (2 * rank) ** -0.5
        )
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * scale)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        in_features, rank, out_features = self.quadratic_decomposed.shape
        factors = x @ self.quadratic_decomposed.reshape(in_features, rank * out_features)
        squares: Tensor = factors.unflatten(-1, (rank, out_features)).square().sum(-2)
        return squares + F.linear(x, self.weight, self.bias)


class DenseICNN(Potential):
    """Fully connected input-convex network with input-quadratic skip layers (Korotin et al., 2021, appendix B.2).

    With ``q_i`` the quadratic layers, ``C_i >= 0`` the hidden weights, ``c >= 0`` the output weights and
    ``a`` the activation::

        h_0 = q_0(x),    h_i = a(C_i h_{i-1} + q_i(x)),    psi(x) = c h_{L-1} + s/2 |x|^2

    and its gradient by the backward recursion, ``k_i`` being the derivative of psi with respect to
    ``q_i(x)``::

        k_{L-1} = c a'(u_{L-1}),   k_{i-1} = (C_i^T k_i) a'(u_{i-1}),   grad psi = sum_i J_{q_i}^T k_i + s x

    Args:
        in_dim: dimension D of the points.
        hidden: widths of the hidden layers.
        rank: rank of the quadratic forms.
        activation: ``celu`` or ``softplus``.
        strong_convexity: the factor ``s`` of the quadratic that bounds the curvature from below.
        dropout: rate applied to the outputs of every quadratic and hidden layer while training.

    ``batch_part``, the size of a whole batch and the rows of it that batches in training are (one, or several one after
    the other), makes ranks that share a batch and draw the same random numbers drop what one rank would.

    Published state dictionaries load, with or without the container index that dropout adds to their names.
    Freshly built networks have non-negative hidden weights and are convex.

    Example:
        >>> import torch, wasskit
        >>> psi = wasskit.DenseICNN(2, hidden=(8, 8))
        >>> x, y = torch.randn(100, 2), torch.randn(100, 2)
        >>> bool((psi((x + y) / 2) <= (psi(x) + psi(y)) / 2 + 1e-5).all())  # convex
        True
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int] = (128, 128, 64),
        rank: int = 1,
        activation: Activation = "celu",
        strong_convexity: float = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if in_dim < 1 or not hidden or min(hidden) < 1 or rank < 1:
            raise ValueError("DenseICNN needs a positive dimension, positive hidden widths and a positive rank")
        if activation not in ("celu", "softplus"):
            raise ValueError(f"unknown activation {activation!r}: it is celu or softplus")
        self.in_dim = in_dim
        self.hidden = tuple(hidden)
        self.rank = rank
        self.activation = activation
        self.strong_convexity = strong_convexity
        self.dropout = dropout
        self.batch_part: tuple[int, range] | None = None
        self.quadratic_layers = nn.ModuleList(ConvexQuadratic(in_dim, width, rank) for width in hidden)
        self.convex_layers = nn.ModuleList(
            nn.Linear(narrow, wide, bias=False) for narrow, wide in zip(self.hidden[:-1], self.hidden[1:], strict=True)
        )
        self.final_layer = nn.Linear(self.hidden[-1], 1, bias=False)
        with torch.no_grad():
            for layer in [*self.convex_layers, self.final_layer]:
                # Positive weights with the mean 1/fan-in keep hidden layers of the size of the quadratic ones.
                layer.weight.uniform_(0.0, 2.0 / layer.weight.shape[1])

    @property
    def output_layer(self) -> nn.Module:
        return self.final_layer

    @property
    def quadratics(self) -> list[ConvexQuadratic]:
        """The quadratic skip layers."""
        return cast("list[ConvexQuadratic]", list(self.quadratic_layers))

    @property
    def hidden_weights(self) -> list[Tensor]:
        """The weights between hidden layers."""
        return [cast(nn.Linear, layer).weight for layer in self.convex_layers]

    def _skip_parameters(self) -> list[Tensor]:
        """The skip layers side by side: factors (D, rank, H), weights (H, D), biases (H), H being sum(hidden).

        One matrix product then serves all skip layers, and one with the transpose their share of the gradient.
        """
        layers = self.quadratics
        return [
            torch.cat([layer.quadratic_decomposed for layer in layers], 2),
            torch.cat([layer.weight for layer in layers], 0),
            torch.cat([layer.bias for layer in layers]),
        ]

    def _tensors(self) -> list[Tensor]:
        """The parameters as a sweep takes them: those of the skip layers, the output weights, the hidden ones."""
        skips = self._skip_parameters()
        if self.in_dim <= MONOMIALS_UP_TO:
            factors, weight, bias = skips
            forms = torch.einsum("dro,ero->deo", factors, factors).flatten(0, 1)
            skips = [torch.cat([forms, weight.t()]), bias]
        return [*skips, self.final_layer.weight, *self.hidden_weights]

    def _form(self, x: Tensor) -> Form:
        """What else a sweep needs: with dropout also masks of the skip layers (H, B) and of each hidden layer."""
        masks = None
        if self.training and self.dropout:
            keep = 1.0 - self.dropout
            widths = [sum(self.hidden), *self.hidden[1:]]
            size, rows = self.batch_part or (len(x), range(len(x)))
            batches = len(x) // len(rows)
            drawn = (torch.empty(batches, size, n, dtype=x.dtype, device=x.device).bernoulli_(keep) for n in widths)
            masks = tuple((mask[:, rows.start : rows.stop].flatten(0, 1) / keep).t() for mask in drawn)
        skips = Monomials if self.in_dim <= MONOMIALS_UP_TO else Products
        return Form(skips, self.activation, self.hidden, self.strong_convexity, masks)

    def forward(self, x: Tensor) -> Tensor:
        return value(self._form(x), x, self._tensors())

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(self._form(x), x, self._tensors())

    def prepared(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        tensors = self._tensors()
        return lambda x: value_and_gradient(self._form(x), x, tensors)

    def hessian(self, x: Tensor) -> Tensor:
        """``grad^2 psi(x)``, (B, D, D), without dropout.

        With ``J_i`` the Jacobian of the pre-activation ``u_i`` and ``k_i = d psi / d u_i``::

            H = s I + sum_i 2 Q_i diag(k_i) Q_i^T + sum_{i>0} J_i^T diag(k_i a''(u_i) / a'(u_i)) J_i
        """
        factors, weights, biases = self._skip_parameters()
        flat, widths = factors.flatten(1), list(self.hidden)
        products = x @ flat
        squares = products.unflatten(1, factors.shape[1:]).square().sum(1)
        h, *skips = (squares + F.linear(x, weights, biases)).split(widths, 1)
        of_squares = (flat * products.unsqueeze(1)).unflatten(2, factors.shape[1:]).sum(2)
        jacobian_h, *rest = torch.add(weights.t(), of_squares, alpha=2.0).split(widths, 2)
        jacobians: list[Tensor] = []
        curvatures: list[Tensor] = []
        slopes: list[Tensor] = []
        for weight, skip, jacobian in zip(self.hidden_weights, skips, rest, strict=True):
            jacobians.append(F.linear(jacobian_h, weight) + jacobian)
            h, slope = activate(F.linear(h, weight) + skip, self.activation)
            slopes.append(slope)
            curvatures.append(relative_curvature(h, slope, self.activation))
            jacobian_h = jacobians[-1] * slope.unsqueeze(1)

        hessian = self.strong_convexity * torch.eye(self.in_dim, dtype=x.dtype, device=x.device)
        k: Tensor = self.final_layer.weight.expand(len(x), -1)
        ks: list[Tensor] = []
        for i in range(len(slopes) - 1, -1, -1):
            k = k * slopes[i]
            ks.append(k)
            bent = jacobians[i] * (k * curvatures[i]).unsqueeze(1)
            hessian = hessian + bent @ jacobians[i].transpose(1, 2)
            k = k @ self.hidden_weights[i]
        every = torch.cat([k, *ks[::-1]], 1).repeat(1, self.rank)
        return hessian + 2.0 * (flat * every.unsqueeze(1)) @ flat.t()

    @torch.no_grad()
    def convexify(self) -> None:
        """Clamp the hidden and output weights at zero from below, which makes the network convex."""
        weights: list[Tensor] = [*self.hidden_weights, self.final_layer.weight]
        torch._foreach_clamp_min_(weights, 0.0)

    @torch.no_grad()
    def center(self, x: Tensor) -> None:
        """Set the biases so that every pre-activation has mean zero over the points ``x`` (N, D).

        Non-negative weights and squares push pre-activations up, where both activations are nearly
        straight; centred, the bends of all units lie amid the points (compare Hoedt and Klambauer, 2023, on
        the initialisation of these networks).
        """
        h = x.new_zeros(len(x), 0)
        for i, layer in enumerate(self.quadratics):
            u: Tensor = layer(x)
            if i > 0:
                u = u + F.linear(h, self.hidden_weights[i - 1])
            layer.bias.sub_(u.mean(0))
            h = u - u.mean(0)
            if i > 0:
                h = activate(h, self.activation)[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        flatten_layer_names(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, activation: Activation = "celu", strong_convexity: float = 1e-6
    ) -> DenseICNN:
        """Build the network that a published state dictionary describes, and load it.

        Raises:
            ValueError: the dictionary is not that of a dense input-convex network.
        """
        state = dict(state)
        flatten_layer_names(state, "")
        factors: list[Tensor] = []
        while (name := f"quadratic_layers.{len(factors)}.quadratic_decomposed") in state:
            factors.append(state[name])
        if not factors or any(factor.ndim != 3 for factor in factors):
            raise ValueError(
                "no quadratic_layers.0.quadratic_decomposed of shape (in, rank, out) in the state dictionary"
            )
        in_dim, rank, _ = factors[0].shape
        widths = [factor.shape[2] for factor in factors]
        with torch.device("meta"):
            wanted = cls(in_dim, widths, rank, activation, strong_convexity).state_dict()
        if (reason := difference(wanted, state)) is not None:
            raise ValueError(f"the state dictionary does not fit a dense input-convex network: {reason}")
        network = cls(in_dim, widths, rank, activation, strong_convexity)
        network.to(factors[0].dtype).load_state_dict(state)
        return network


def flatten_layer_names(state: dict[str, Any], prefix: str) -> None:
    """Rename ``quadratic_layers.i.0.*`` and ``convex_layers.i.0.*`` (layer and dropout in one container) in place."""
    for name in list(state):
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split(".")
        if parts[0] in ("quadratic_layers", "convex_layers") and len(parts) == 4 and parts[2] == "0":
            state[f"{prefix}{parts[0]}.{parts[1]}.{parts[3]}"] = state.pop(name)
