"""Input-convex neural networks with closed-form gradient maps.

An input-convex network (Amos, Xu and Kolter, 2017) is a scalar function psi that is convex in its input,
because its hidden weights are non-negative and its activations are convex and non-decreasing. By Brenier's
theorem its gradient is an optimal transport map for the quadratic cost, which is what Wasserstein-2
generative networks (Korotin et al., 2021) fit.

The gradient map is written here as the network's own backward recursion, with ordinary operations: a loss
on the map then needs one backward pass instead of a differentiated backward pass, compiles, and can be
captured in a CUDA graph. Values are computed in the same sweep, so a potential and its map cost one
evaluation together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.models.weights import difference
from wasskit.ot.gaussian import along_channels, like_channels

Activation = Literal["celu", "softplus"]

MONOMIALS_UP_TO = 8
"""Dimension up to which the quadratic skip layers are evaluated through the monomials of the input."""


class Potential(nn.Module):
    """A differentiable scalar function of a batch of points, together with its gradient map.

    Subclasses define ``value_and_gradient``; dense ones also ``hessian``.
    """

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``psi(x)`` of shape (B,) and ``grad psi(x)`` of the shape of ``x``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``psi(x)`` for a batch (B, ...) as (B,)."""
        return self.value_and_gradient(x)[0]

    def gradient(self, x: Tensor) -> Tensor:
        """The transport map ``grad psi(x)``, of the shape of ``x``."""
        return self.value_and_gradient(x)[1]

    def hessian(self, x: Tensor) -> Tensor:
        """``grad^2 psi(x)`` of shape (B, D, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form Hessian")

    def convexify(self) -> None:
        """Project the parameters onto the set on which the potential is convex (a no-op where it always
        is).
        """

    def center(self, x: Tensor) -> None:
        """Adapt freshly drawn parameters to a sample of the inputs (a no-op where there is nothing to
        adapt).
        """


def activate(u: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The activation and its derivative; both convex, non-decreasing."""
    if activation == "celu":
        h = F.celu(u)
        # For u < 0 the derivative is exp(u) = celu(u) + 1, and 1 elsewhere: no second exponential is needed.
        return h, h.clamp(max=0.0) + 1.0
    # softplus(u) counts as u beyond 20, and its slope as 1: the sigmoid alone would differ by 2e-9 there.
    return F.softplus(u), torch.where(u > 20.0, 1.0, torch.sigmoid(u))


def second_derivative(u: Tensor, slope: Tensor, activation: str) -> Tensor:
    if activation == "celu":
        return torch.where(u < 0, slope, torch.zeros_like(slope))
    return slope * (1.0 - slope)


class ConvexQuadratic(nn.Module):
    """Parameters of one input-quadratic skip layer, ``q(x)_o = sum_r (sum_d x_d Q[d, r, o])^2 + (W x +
    b)_o``.

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
    """Fully connected input-convex network with input-quadratic skip layers (Korotin et al., 2021, appendix
    B.2).

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

    ``batch_part``, the size of a whole batch and the rows of it that batches in training are, makes ranks that share
    a batch and draw the same random numbers drop what one rank would.

    Published state dictionaries load, with or without the container index that dropout adds to their names.
    Freshly built networks have non-negative hidden weights and are convex.
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
            raise ValueError(
                "DenseICNN needs a positive dimension, positive hidden widths and a positive rank"
            )
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
            nn.Linear(narrow, wide, bias=False)
            for narrow, wide in zip(self.hidden[:-1], self.hidden[1:], strict=True)
        )
        self.final_layer = nn.Linear(self.hidden[-1], 1, bias=False)
        with torch.no_grad():
            for layer in [*self.convex_layers, self.final_layer]:
                # Positive weights with the mean 1/fan-in keep hidden layers of the size of the quadratic
                # ones.
                layer.weight.uniform_(0.0, 2.0 / layer.weight.shape[1])

    @property
    def quadratics(self) -> list[ConvexQuadratic]:
        """The quadratic skip layers."""
        return cast("list[ConvexQuadratic]", list(self.quadratic_layers))

    @property
    def hidden_weights(self) -> list[Tensor]:
        """The weights between hidden layers."""
        return [cast(nn.Linear, layer).weight for layer in self.convex_layers]

    def skip_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """The skip layers side by side: quadratic factors (D, rank, H), weights (H, D), biases (H), H being
        sum(hidden).

        One matrix product then serves all skip layers, and one with the transpose their share of the
        gradient.
        """
        factors: list[Tensor] = [layer.quadratic_decomposed for layer in self.quadratics]
        weights: list[Tensor] = [layer.weight for layer in self.quadratics]
        biases: list[Tensor] = [layer.bias for layer in self.quadratics]
        return torch.cat(factors, 2), torch.cat(weights, 0), torch.cat(biases)

    def _skips(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``q(x)`` of all layers, (B, H), and the map from ``k`` (B, H) to ``J_q(x)^T k`` (B, D).

        In few dimensions the quadratic forms are products of their D x D matrices with the monomials ``x_d
        x_e``, which keeps every intermediate of size (B, H); in many they are squares of the factors, (B,
        rank, H).
        """
        factors, weight, bias = self.skip_parameters()
        width = weight.shape[0]
        linear = F.linear(x, weight, bias)
        if self.in_dim <= MONOMIALS_UP_TO:
            forms = torch.einsum("dro,ero->deo", factors, factors).reshape(self.in_dim**2, width)
            monomials = (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1)

            def from_monomials(k: Tensor) -> Tensor:
                along = (k @ forms.t()).unflatten(1, (self.in_dim, self.in_dim))
                gradient: Tensor = 2.0 * (along * x.unsqueeze(1)).sum(2) + k @ weight
                return gradient

            return torch.addmm(linear, monomials, forms), from_monomials

        flat = factors.flatten(1)
        products = x @ flat
        if self.rank == 1:
            return linear + products.square(), lambda k: 2.0 * (products * k) @ flat.t() + k @ weight
        products = products.unflatten(1, (self.rank, width))

        def from_products(k: Tensor) -> Tensor:
            gradient: Tensor = 2.0 * (products * k.unsqueeze(1)).flatten(1) @ flat.t() + k @ weight
            return gradient

        return linear + products.square().sum(1), from_products

    def _masks(self, x: Tensor) -> list[Tensor] | None:
        """Dropout masks of the skip layers (B, H) and of each hidden layer, or None when nothing is
        dropped.
        """
        if not self.training or self.dropout == 0.0:
            return None
        keep = 1.0 - self.dropout
        widths = [sum(self.hidden), *self.hidden[1:]]
        size, rows = self.batch_part or (len(x), range(len(x)))
        drawn = (torch.empty(size, n, dtype=x.dtype, device=x.device).bernoulli_(keep) for n in widths)
        return [mask[rows.start : rows.stop] / keep for mask in drawn]

    def _sweep(self, x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        masks = self._masks(x)
        q, pull_back = self._skips(x)
        if masks is not None:
            q = q * masks[0]
        h, *skips = q.split(list(self.hidden), 1)
        slopes: list[Tensor] = []
        for i, skip in enumerate(skips):
            weight: Tensor = self.hidden_weights[i]
            u = (
                torch.addmm(skip, h, weight.t())
                if masks is None
                else skip + F.linear(h, weight) * masks[i + 1]
            )
            h, slope = activate(u, self.activation)
            slopes.append(slope)
        output: Tensor = self.final_layer.weight
        value = F.linear(h, output).squeeze(1) + 0.5 * self.strong_convexity * x.square().sum(1)
        if not with_gradient:
            return value, None

        k = output.expand(len(x), -1)
        ks = [k]
        for i in range(len(skips) - 1, -1, -1):
            k = k * slopes[i]
            ks[0] = k
            if masks is not None:
                k = k * masks[i + 1]
            k = k @ self.hidden_weights[i]
            ks.insert(0, k)
        through = torch.cat(ks, 1)
        if masks is not None:
            through = through * masks[0]
        return value, pull_back(through) + self.strong_convexity * x

    def forward(self, x: Tensor) -> Tensor:
        return self._sweep(x, with_gradient=False)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self._sweep(x, with_gradient=True)
        assert gradient is not None
        return value, gradient

    def hessian(self, x: Tensor) -> Tensor:
        """``grad^2 psi(x)``, (B, D, D), without dropout.

        With ``J_i`` the Jacobian of the pre-activation ``u_i`` and ``k_i = d psi / d u_i``::

            H = s I + sum_i 2 Q_i diag(k_i) Q_i^T + sum_{i>0} J_i^T diag(k_i a''(u_i) / a'(u_i)) J_i
        """
        jacobians: list[Tensor] = []
        curvatures: list[Tensor] = []
        slopes: list[Tensor] = []
        h = x.new_zeros(())
        jacobian_h = x.new_zeros(())
        for i, layer in enumerate(self.quadratics):
            quadratic: Tensor = layer.quadratic_decomposed
            factors = torch.einsum("bd,dro->bro", x, quadratic)
            q = factors.square().sum(1) + F.linear(x, layer.weight, layer.bias)
            jacobian = 2.0 * torch.einsum("bro,dro->bdo", factors, quadratic) + layer.weight.t()
            if i == 0:
                h, jacobian_h = q, jacobian
                continue
            weight: Tensor = self.hidden_weights[i - 1]
            u = F.linear(h, weight) + q
            jacobian = F.linear(jacobian_h, weight) + jacobian
            h, slope = activate(u, self.activation)
            jacobian_h = jacobian * slope.unsqueeze(1)
            jacobians.append(jacobian)
            slopes.append(slope)
            curvatures.append(second_derivative(u, slope, self.activation))

        eye = torch.eye(self.in_dim, dtype=x.dtype, device=x.device)
        hessian = self.strong_convexity * eye.expand(len(x), -1, -1)
        k = self.final_layer.weight.expand(len(x), -1)
        for i in range(len(self.hidden) - 1, -1, -1):
            if i > 0:
                jacobian = jacobians[i - 1]
                hessian = hessian + (jacobian * (k * curvatures[i - 1]).unsqueeze(1)) @ jacobian.transpose(
                    1, 2
                )
                k = k * slopes[i - 1]
            quadratic = self.quadratics[i].quadratic_decomposed
            for r in range(self.rank):
                factor = quadratic[:, r]
                hessian = hessian + 2.0 * (factor * k.unsqueeze(1)) @ factor.t()
            if i > 0:
                k = k @ self.hidden_weights[i - 1]
        return hessian

    @torch.no_grad()
    def convexify(self) -> None:
        """Clamp the hidden and output weights at zero from below, which makes the network convex."""
        for weight in [*self.hidden_weights, self.final_layer.weight]:
            weight.clamp_(min=0.0)

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
    """Rename ``quadratic_layers.i.0.*`` and ``convex_layers.i.0.*`` (layer and dropout in one container)
    in place.
    """
    for name in list(state):
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split(".")
        if parts[0] in ("quadratic_layers", "convex_layers") and len(parts) == 4 and parts[2] == "0":
            state[f"{prefix}{parts[0]}.{parts[1]}.{parts[3]}"] = state.pop(name)


class ConvICNN(Potential):
    """Convolutional input-convex network for images (B, C, H, W) of one given size.

    The first layer is ``a(x) + b(x)^2`` with two stacks of four 3x3 convolutions, followed by CELU and 3x3
    convolutions of stride 2 with non-negative weights until about 4x4 pixels are left, and four
    non-negative linear layers. At 128x128 with the default width this is the published network, parameter
    names included; other sizes change the number of convolutions of stride 2 (one per halving down to 4
    pixels).

    Args:
        image_size: height and width; one number for squares.
        channels: channels of the images.
        width: channels of every convolution.
        strong_convexity: factor ``s`` of an added ``s/2 |x|^2`` (0 in the published network).
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 128,
        channels: int = 3,
        width: int = 128,
        strong_convexity: float = 0.0,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, breadth) < 4:
            raise ValueError(f"ConvICNN needs images of at least 4x4 pixels, not {height}x{breadth}")
        self.image_size = (height, breadth)
        self.channels = channels
        self.width = width
        self.strong_convexity = strong_convexity
        self.first_linear = nn.Sequential(
            *(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1, bias=i == 3) for i in range(4))
        )
        self.first_squared = nn.Sequential(
            *(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1, bias=False) for i in range(4))
        )
        layers: list[nn.Module] = []
        while min(height, breadth) > 4:
            layers += [nn.CELU(), nn.Conv2d(width, width, 3, stride=2, padding=1)]
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
        layers += [nn.CELU(), nn.Flatten(), nn.CELU(), nn.Linear(width * height * breadth, 128)]
        for narrow, wide in ((128, 64), (64, 32), (32, 1)):
            layers += [nn.CELU(), nn.Linear(narrow, wide)]
        self.convex = nn.Sequential(*layers)

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[torch.Size]]:
        squared = self.first_squared(x)
        h = self.first_linear(x) + squared.square()
        slopes: list[Tensor] = []
        shapes: list[torch.Size] = []
        for layer in self.convex:
            if isinstance(layer, nn.CELU):
                h, slope = activate(h, "celu")
                slopes.append(slope)
            else:
                shapes.append(h.shape)
                h = layer(h)
        value = h.squeeze(1) + 0.5 * self.strong_convexity * x.square().flatten(1).sum(1)
        return value, squared, slopes, shapes

    def forward(self, x: Tensor) -> Tensor:
        return self._trunk(x)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, squared, slopes, shapes = self._trunk(x)
        k = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
        slopes, shapes = slopes[::-1], shapes[::-1]
        activations = products = 0
        for layer in reversed(self.convex):
            if isinstance(layer, nn.CELU):
                k = k * slopes[activations]
                activations += 1
                continue
            if isinstance(layer, nn.Linear):
                k = k @ layer.weight
            elif isinstance(layer, nn.Flatten):
                k = k.reshape(shapes[products])
            elif isinstance(layer, nn.Conv2d):
                k = transposed(layer, k, shapes[products])
            products += 1
        through_linear, through_squared = k, 2.0 * squared * k
        for a, b in zip(reversed(self.first_linear), reversed(self.first_squared), strict=True):
            a, b = cast(nn.Conv2d, a), cast(nn.Conv2d, b)
            through_linear = F.conv_transpose2d(through_linear, a.weight, padding=1)
            through_squared = F.conv_transpose2d(through_squared, b.weight, padding=1)
        return value, through_linear + through_squared + self.strong_convexity * x

    @torch.no_grad()
    def convexify(self) -> None:
        """Clamp every weight (not the biases) behind the first layer at zero from below."""
        for layer in self.convex:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight.clamp_(min=0.0)

    @torch.no_grad()
    def thin_out(self, inputs: int = 3) -> None:
        """Leave every unit behind the first layer about ``inputs`` of its inputs, drawn at random, with
        non-negative weights.

        Sums of many features with non-negative weights are all but the same average; of few, they differ from unit
        to unit, as the training needs.
        """
        for layer in self.convex[:-1]:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                kept = torch.rand_like(layer.weight) < inputs / layer.weight[0].numel()
                layer.weight.abs_().mul_(kept)

    @torch.no_grad()
    def center(self, x: Tensor) -> None:
        """Scale the layers and set their biases so that, over the images ``x`` (N, C, H, W), the values that enter
        every activation have mean zero in each channel and variance one over all.
        """
        last = cast(nn.Conv2d, self.first_linear[-1])
        squared = self.first_squared(x)
        scale = squared.std().clamp_min(1e-12)
        cast(nn.Conv2d, self.first_squared[-1]).weight.div_(scale)
        h = self.first_linear(x) + (squared / scale).square()
        assert last.bias is not None
        last.bias.sub_(channel_means(h))
        h = h - channel_means(h).view(1, -1, 1, 1)
        for layer in self.convex[:-1]:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                out = layer(h)
                means = channel_means(out)
                spread = (out - means.view(1, -1, *[1] * (out.ndim - 2))).std().clamp_min(1e-12)
                assert layer.bias is not None
                layer.weight.div_(spread)
                layer.bias.sub_(means).div_(spread)
            h = layer(h)


def channel_means(h: Tensor) -> Tensor:
    """Means over all axes but the second."""
    return h.transpose(0, 1).flatten(1).mean(1)


def transposed(layer: nn.Conv2d, k: Tensor, shape: torch.Size) -> Tensor:
    """The adjoint of a 3x3 convolution of stride 2 and padding 1 applied to ``k``, for an input of the
    given shape.
    """
    extra = [shape[2] - (2 * k.shape[2] - 1), shape[3] - (2 * k.shape[3] - 1)]
    return F.conv_transpose2d(k, layer.weight, stride=2, padding=1, output_padding=extra)


class QuadraticPotential(Potential):
    """A network plus a learned quadratic form, ``psi(x) = 1/2 |L x|^2 + network(x)``.

    The network's output weights start at zero, so that the map starts at the identity (up to the network's
    strong convexity) without any pre-training. Unlike a fixed ``1/2 |x|^2`` the learned form leaves the
    curvature free to fall below one.

    Over images the quadratic form varies with the number of pixels, and a network whose values are of the size of
    one would have nothing to say beside it. `center` then sets a ``gain``, by which the network is multiplied: with
    it, output weights of the size of one make the network vary as much as the form does.

    Args:
        dim: dimension of the points; ``L`` is then a matrix (D, D). None, for images: a number.
    """

    gain: Tensor | None

    def __init__(self, network: Potential, dim: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.factor = nn.Parameter(torch.ones(()) if dim is None else torch.eye(dim))
        self.register_buffer("gain", torch.ones(()) if dim is None else None)
        output = (
            network.convex[-1] if isinstance(network, ConvICNN) else getattr(network, "final_layer", None)
        )
        self.outputs = 1
        if isinstance(output, nn.Linear):
            self.outputs = output.in_features
            with torch.no_grad():
                output.weight.zero_()

    def lift(self, x: Tensor) -> Tensor:
        """``L x``."""
        return x @ self.factor.t() if self.factor.ndim else x * self.factor

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.network(x)
        if self.gain is not None:
            value = self.gain * value
        return value + 0.5 * self.lift(x).flatten(1).square().sum(1)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.network.value_and_gradient(x)
        if self.gain is not None:
            value, gradient = self.gain * value, self.gain * gradient
        lifted = self.lift(x)
        form = lifted @ self.factor if self.factor.ndim else lifted * self.factor
        return value + 0.5 * lifted.flatten(1).square().sum(1), gradient + form

    def hessian(self, x: Tensor) -> Tensor:
        factor = self.factor if self.factor.ndim else self.factor * torch.eye(x.shape[1]).to(x)
        hessian = self.network.hessian(x)
        return (hessian if self.gain is None else self.gain * hessian) + factor.t() @ factor

    def convexify(self) -> None:
        self.network.convexify()

    @torch.no_grad()
    def center(self, x: Tensor) -> None:
        self.network.center(x)
        if self.gain is not None:
            self.gain.copy_((0.5 * x.flatten(1).square().sum(1)).std() / self.outputs)


class AffinePotential(Potential):
    """A potential given in transformed coordinates, ``psi(x) = core(A (x - m)) / c + <x, n>``.

    Its map is ``A^T grad core(A (x - m)) / c + n``. With ``A`` and ``c`` from
    `wasskit.ot.gaussian.balance`, a core whose map is the identity is the optimal transport between the
    Gaussians of the two measures' moments.
    """

    transform: Tensor
    mean: Tensor
    image: Tensor
    scale: Tensor

    def __init__(
        self, core: Potential, transform: Tensor, mean: Tensor, image: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.core = core
        self.register_buffer("scale", scale)
        self.register_buffer("transform", transform)
        self.register_buffer("mean", mean)
        self.register_buffer("image", image)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = like_channels(self.image, x)
        value, gradient = self.core.value_and_gradient(
            along_channels(self.transform, x - like_channels(self.mean, x))
        )
        linear = (x * image).flatten(1).sum(1)
        return value / self.scale + linear, along_channels(self.transform.t(), gradient) / self.scale + image

    def hessian(self, x: Tensor) -> Tensor:
        inner = self.core.hessian((x - self.mean) @ self.transform.t())
        return self.transform.t() @ inner @ self.transform / self.scale

    def convexify(self) -> None:
        self.core.convexify()
