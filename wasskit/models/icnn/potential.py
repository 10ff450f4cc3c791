"""A potential, its gradient map, and the potentials that frame a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.ot.gaussian import along_channels, like_channels

Activation = Literal["celu", "softplus"]


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

    def prepared(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """``value_and_gradient`` for several evaluations before the parameters change: what depends on these alone is
        computed, and differentiated, once."""
        return self.value_and_gradient

    @torch.no_grad()
    def frozen(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """`prepared` for evaluations without gradient."""
        return self.prepared()

    @property
    def output_layer(self) -> nn.Module | None:
        """The last layer of a network, whose weights make it a sum of its last hidden units."""
        return None

    def hessian(self, x: Tensor) -> Tensor:
        """``grad^2 psi(x)`` of shape (B, D, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form Hessian")

    def convexify(self) -> None:
        """Project the parameters onto the set on which the potential is convex (a no-op where it always is)."""

    def center(self, x: Tensor) -> None:
        """Adapt freshly drawn parameters to a sample of the inputs (a no-op where there is nothing to adapt)."""


def activate(u: Tensor, activation: str, *, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """The activation, both convex and non-decreasing, and its derivative; with ``in_place`` ``u`` is lost."""
    if activation == "celu":
        # For u < 0 the derivative is exp(u) = celu(u) + 1, and 1 elsewhere: no second exponential is needed.
        if u.device.type != "cpu":
            h = F.celu(u, inplace=in_place)
            return h, h.clamp(max=0.0) + 1.0
        # On the CPU torch takes the exponential of celu one number at a time, which is ten times slower than this. The
        # subtraction is exact but for the rounding of exp(u), half an eps.
        slope = u.clamp(max=0.0).exp_()
        return torch.maximum(u, slope - 1.0, out=u if in_place else None), slope
    # softplus(u) counts as u beyond 20, and its slope as 1: the sigmoid alone would differ by 2e-9 there.
    return F.softplus(u), torch.where(u > 20.0, 1.0, torch.sigmoid(u))


def relative_curvature(h: Tensor, slope: Tensor, activation: str) -> Tensor:
    """The second derivative of the activation over its first, from its value and its first; 0 at the bend of celu."""
    if activation == "celu":
        # Straight into numbers: a product with a mask of booleans is slow on the CPU.
        return torch.lt(h, 0.0, out=torch.empty_like(h))
    return 1.0 - slope


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
        output = network.output_layer
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
        return self.prepared()(x)

    def prepared(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        network = self.network.prepared()

        def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = network(x)
            if self.gain is not None:
                value, gradient = self.gain * value, self.gain * gradient
            lifted = self.lift(x)
            form = lifted @ self.factor if self.factor.ndim else lifted * self.factor
            return value + 0.5 * lifted.flatten(1).square().sum(1), gradient + form

        return value_and_gradient

    @torch.no_grad()
    def frozen(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        network, gain, factor = self.network.frozen(), self.gain, self.factor
        matrix = factor.t() @ factor if factor.ndim else factor.square()

        def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = network(x)
            if gain is not None:
                value, gradient = gain * value, gain * gradient
            form = x @ matrix if matrix.ndim else x * matrix
            return value.add((x * form).flatten(1).sum(1), alpha=0.5), gradient + form

        return value_and_gradient

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

    Its map is ``A^T grad core(A (x - m)) / c + n``. With ``A`` and ``c`` from `wasskit.ot.gaussian.balance`, a core
    whose map is the identity is the optimal transport between the Gaussians of the two measures' moments.
    """

    transform: Tensor
    mean: Tensor
    image: Tensor
    scale: Tensor

    def __init__(self, core: Potential, transform: Tensor, mean: Tensor, image: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.core = core
        self.register_buffer("scale", scale)
        self.register_buffer("transform", transform)
        self.register_buffer("mean", mean)
        self.register_buffer("image", image)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = like_channels(self.image, x)
        value, gradient = self.core.value_and_gradient(along_channels(self.transform, x - like_channels(self.mean, x)))
        linear = (x * image).flatten(1).sum(1)
        return value / self.scale + linear, along_channels(self.transform.t(), gradient) / self.scale + image

    def hessian(self, x: Tensor) -> Tensor:
        inner = self.core.hessian((x - self.mean) @ self.transform.t())
        return self.transform.t() @ inner @ self.transform / self.scale

    def convexify(self) -> None:
        self.core.convexify()
