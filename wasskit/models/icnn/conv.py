"""The convolutional network, for images."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.models.icnn.potential import Potential, activate


class ConvICNN(Potential):
    """Convolutional input-convex network for images (B, C, H, W) of one given size.

    The first layer is ``a(x) + b(x)^2`` with two stacks of four 3x3 convolutions, followed by CELU and 3x3 convolutions
    of stride 2 with non-negative weights until about 4x4 pixels are left, and four non-negative linear layers. At
    128x128 with the default width this is the published network, parameter names included; other sizes change the
    number of convolutions of stride 2 (one per halving down to 4 pixels).

    Args:
        image_size: height and width; one number for squares.
        channels: channels of the images.
        width: channels of every convolution.
        strong_convexity: factor ``s`` of an added ``s/2 |x|^2`` (0 in the published network).

    Example:
        >>> import torch, wasskit
        >>> psi = wasskit.ConvICNN(image_size=16, width=8)
        >>> value, gradient = psi.value_and_gradient(torch.rand(2, 3, 16, 16))
        >>> value.shape, gradient.shape  # the gradient is the transport map
        (torch.Size([2]), torch.Size([2, 3, 16, 16]))
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

    @property
    def output_layer(self) -> nn.Module:
        return self.convex[-1]

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
    """The adjoint of a 3x3 convolution of stride 2 and padding 1 applied to ``k``, for an input of the given shape."""
    extra = [shape[2] - (2 * k.shape[2] - 1), shape[3] - (2 * k.shape[3] - 1)]
    return F.conv_transpose2d(k, layer.weight, stride=2, padding=1, output_padding=extra)
