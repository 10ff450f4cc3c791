"""Operations on a batch of images, each image with parameters of its own.

Each is a small matrix per image: resampling (crop, resize and flip) one matrix per axis, blurring likewise, and
brightness, contrast and saturation one 3x3 matrix and a constant. Only hue is not linear.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BLUR_RADIUS",
    "BRIGHTNESS",
    "CONTRAST",
    "SATURATION",
    "adjust_hue",
    "blend_coefficients",
    "blend_colours",
    "constants",
    "gaussian_blur",
    "grey_weights",
    "resized_crop",
    "solarise",
    "to_grey",
]

BRIGHTNESS, CONTRAST, SATURATION = range(3)
BLUR_RADIUS = 6
"""The largest blur has a standard deviation of 2 pixels; three of them on each side hold 99.7 % of its weight."""
_BLOCK = 32


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Crop each image to its box, resample to a square of side ``size`` and flip where told.

    uint8 (B, C, H, W) -> float32 (B, C, size, size) in [0, 1]. Bicubic with antialiasing, as PIL: the kernel
    widens with the reduction, and never reaches outside the crop. Out = R_y (image) R_x^T with a row of
    weights per output pixel.
    """
    b, c, h, w = images.shape
    rows = _bicubic_weights(top, height, h, size)
    columns = _bicubic_weights(left, width, w, size, mirrored=flip)
    across = torch.bmm(images.reshape(b, c * h, w).float(), columns.mT / 255)
    return torch.matmul(rows[:, None], across.view(b, c, h, size)).clamp_(0, 1)


def _bicubic_weights(start: Tensor, length: Tensor, source: int, size: int, mirrored: Tensor | None = None) -> Tensor:
    """(B, size, source): the weights by which ``length`` pixels from ``start`` on become ``size`` pixels."""
    device = start.device
    out = torch.arange(size, device=device, dtype=torch.float32) + 0.5
    place = out.expand(len(start), size)
    if mirrored is not None:
        place = torch.where(mirrored[:, None], size - place, place)
    scale = length.float() / size
    pixel = torch.arange(source, device=device, dtype=torch.float32) + 0.5
    centre = start[:, None] + place * scale[:, None]
    distance = (pixel - centre[:, :, None]).abs_().div_(scale.clamp_min(1)[:, None, None])
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])
    weights = _keys_kernel(distance) * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def _keys_kernel(distance: Tensor) -> Tensor:
    """Keys's cubic convolution kernel with a = -1/2 at distances >= 0.

    With t = max(2 - d, 0) and s = max(1 - d, 0) its two branches are one formula: t^2 (t - 1) / 2 + s^2 (1 - 2 s).
    """
    t, s = (2 - distance).clamp_min_(0), (1 - distance).clamp_min_(0)
    return t.square().mul_(t - 1).mul_(0.5).addcmul_(s.square(), 1 - 2 * s)


def grey_weights(x: Tensor) -> Tensor:
    """(C,): the share of each channel in the grey value, as in torchvision; a single channel is grey itself."""
    if x.shape[1] == 1:
        return constants((1.0,), x.device)
    if x.shape[1] == 3:
        return constants((0.2989, 0.587, 0.114), x.device)
    raise ValueError(f"views are made of images with 1 or 3 channels, not {x.shape[1]}")


@lru_cache(maxsize=32)
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A few numbers on a device, brought there once: each copy would have the host wait for the device."""
    return torch.tensor(values, device=device)


def blend_coefficients(kind: Tensor, factor: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast or saturation (``kind`` (...)) by ``factor`` (...) as coefficients for `blend_colours`.

    Each is f x + (1 - f) y, with y black, the mean grey value of the image, or the grey image. Returns a
    matrix (..., C, C) acting on the channels and the share (...) of the mean grey value. ``grey``: `grey_weights`.
    """
    rest = 1 - factor
    matrix = factor[..., None, None] * torch.eye(len(grey), device=grey.device)
    return matrix + (rest * (kind == SATURATION))[..., None, None] * grey, rest * (kind == CONTRAST)


def blend_colours(x: Tensor, matrix: Tensor, mean_share: Tensor) -> Tensor:
    """Each image (B, C, H, W) in [0, 1] times its matrix (B, C, C), plus a share (B,) of its mean
    grey value, clipped."""
    b, c, h, w = x.shape
    constant = (x.mean(dim=(2, 3)) @ grey_weights(x)) * mean_share
    mixed = torch.baddbmm(constant[:, None, None].expand(b, c, 1), matrix, x.reshape(b, c, h * w))
    return mixed.view(b, c, h, w).clamp_(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of each image (B, C, H, W) in [0, 1] by its ``shift`` (B,), in turns; grey images stay as they are.

    With h in [0, 6) the hue in sixths of a turn, m the smallest and M the largest channel, red is
    m + (M - m) clip(|h - 3| - 1), green m + (M - m) clip(2 - |h - 2|), blue m + (M - m) clip(2 - |h - 4|).
    """
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(dim=1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = most - least
    # 1 where a channel is the largest and 0 elsewhere, and selection by products: comparisons and torch.where
    # are several times slower on the CPU.
    is_red = (red - most).mul_(1e30).add_(1).clamp_min_(0)
    is_green = (green - most).mul_(1e30).add_(1).clamp_min_(0)
    is_green = torch.addcmul(is_green, is_green, is_red, value=-1)
    slope = red - green
    slope = torch.addcmul(slope, is_red, green - blue - slope).addcmul_(is_green, blue - red - slope)
    hue = slope.div_(chroma.clamp_min(1e-12)).add_(6 * shift[:, None, None] + 4)
    hue = hue.sub_(is_red, alpha=4).sub_(is_green, alpha=2)
    hue = hue.sub_(torch.floor(hue / 6), alpha=6)
    out = torch.empty_like(x)
    peaks = ((hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_())
    for channel, peak in enumerate(peaks):
        torch.addcmul(least, chroma, peak.clamp_(0, 1), out=out[:, channel])
    return out


def to_grey(x: Tensor, chosen: Tensor) -> Tensor:
    """The grey image in all channels where chosen."""
    c = x.shape[1]
    if c == 1:
        return x
    share = chosen.to(x.dtype)[:, None, None]
    matrix = (1 - share) * torch.eye(c, device=x.device) + share * grey_weights(x)
    return torch.bmm(matrix, x.flatten(2)).view_as(x)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (B, C, S, S) by a Gaussian of its ``sigma`` (B,) in pixels; none where it is 0.

    torchvision's ``gaussian_blur`` with a kernel of 13 pixels (of 2 S - 1 on images with S <= 6), edges reflected.
    """
    size = x.shape[-1]
    radius = min(BLUR_RADIUS, size - 1)
    offset = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    # A vanishing sigma leaves all weight in the middle. Weights below 1e-9 become 0: denormal numbers are slow.
    kernel = (-0.5 * (offset / sigma.clamp_min(1e-3)[:, None]).square()).exp()
    kernel = torch.where(kernel > 1e-9, kernel, 0.0)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    if size > 2 * _BLOCK:
        return _banded(x, kernel)
    matrix = (kernel @ _reflected_shifts(size, radius, x.device).flatten(1)).view(-1, size, size)
    across = torch.bmm(x.reshape(len(x), -1, size), matrix.mT).view_as(x)
    return torch.matmul(matrix[:, None], across)


def _banded(x: Tensor, kernel: Tensor) -> Tensor:
    """The same of larger images (B, C, S, S) by ``kernel`` (B, 2 radius + 1): `_BLOCK` pixels at a time, of which each
    block sees its neighbours only, by one matrix for all blocks."""
    b, c, size, _ = x.shape
    radius = kernel.shape[1] // 2
    window = _BLOCK + 2 * radius
    blocks = -(-size // _BLOCK)
    beyond = blocks * _BLOCK - size
    weights = (kernel @ _shifts(radius, x.device).flatten(1)).view(b, window, _BLOCK)
    padded = F.pad(F.pad(x, [radius] * 4, mode="reflect"), [0, beyond, 0, beyond])
    rows = padded.unfold(3, window, _BLOCK).reshape(b, -1, window)
    across = torch.bmm(rows, weights).view(b, c, -1, blocks * _BLOCK)[..., :size]
    columns = across.unfold(2, window, _BLOCK).mT
    return torch.matmul(weights.mT[:, None, None], columns).view(b, c, blocks * _BLOCK, size)[:, :, :size]


@lru_cache(maxsize=8)
def _shifts(radius: int, device: torch.device) -> Tensor:
    """(2 radius + 1, window, _BLOCK): matrices that pick, for each pixel of a block, its neighbour in the window."""
    source = torch.arange(_BLOCK) + torch.arange(2 * radius + 1)[:, None]
    return F.one_hot(source, _BLOCK + 2 * radius).mT.float().to(device)


@lru_cache(maxsize=8)
def _reflected_shifts(size: int, radius: int, device: torch.device) -> Tensor:
    """(2 radius + 1, size, size): matrices that shift by -radius to radius pixels, reflecting at the edges."""
    place = torch.arange(size) + torch.arange(-radius, radius + 1)[:, None]
    source = place.abs()
    source = torch.where(source > size - 1, 2 * (size - 1) - source, source)
    return F.one_hot(source, size).float().to(device)


def solarise(x: Tensor, chosen: Tensor) -> Tensor:
    """Invert the values (B, C, H, W) from 1/2 on, where chosen: those that are 128 and more in 8 bits."""
    folded = 0.5 - (x - 0.5).abs()
    # 1/2 itself is inverted too, to 1/2.
    return torch.lerp(x, folded, chosen.to(x.dtype)[:, None, None, None])
