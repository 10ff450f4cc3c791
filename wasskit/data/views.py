"""Two random views of each image, for self-supervised learning.

A view is a random resized crop, a flip, a colour jitter, a conversion to grey, a blur and a solarisation,
each with its own probability and parameters per image. `RandomViews` makes them for a whole batch at once, on
the batch's device, each operation with torchvision's distribution and arithmetic (in floating point: values
are not rounded to 8 bits between operations). Of images on disk, which differ in size, a worker decodes each once
and cuts the crops of all views out of it (`RandomCrops`); all else is done on the device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from PIL import Image
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.pixels import (
    adjust_hue,
    blend_coefficients,
    blend_colours,
    constants,
    gaussian_blur,
    grey_weights,
    resized_crop,
    solarise,
    to_grey,
)
from wasskit.data.transforms import Draws, Normalise, PerImage, RandomAugment, to_uint8

_CROP_ATTEMPTS = 10

# Columns of the uniform numbers that one view of one image needs.
_AREA = slice(0, _CROP_ATTEMPTS)
_RATIO = slice(_AREA.stop, _AREA.stop + _CROP_ATTEMPTS)
_TOP, _LEFT, _FLIP, _JITTER, _HUE, _HUE_SLOT, _GREY, _BLUR, _SIGMA, _SOLARISE = range(_RATIO.stop, _RATIO.stop + 10)
_BLEND = slice(_SOLARISE + 1, _SOLARISE + 4)
_ORDER = slice(_BLEND.stop, _BLEND.stop + 3)
_COLUMNS = _ORDER.stop

# On the CPU a batch is worked through in parts small enough to stay in the cache from one operation to the next.
_CPU_PIXELS = 64 * 32 * 32


@dataclass(frozen=True)
class ViewParameters:
    """What happens to each of B images, in this order.

    ``top``, ``left``, ``height``, ``width``: the crop in pixels, (B,) int64. ``flip``: (B,) bool, left-right.
    ``blend``: (B, 3) factors of brightness, contrast and saturation, applied in the ``order`` (B, 3) int64;
    ``hue``: (B,) shift in turns, applied after ``hue_slot`` (B,) of those three (all factors 1 and shift 0
    without jitter). ``grey``, ``solarise``: (B,) bool. ``sigma``: (B,) of the blur in pixels, 0 without.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    blend: Tensor
    order: Tensor
    hue: Tensor
    hue_slot: Tensor
    grey: Tensor
    sigma: Tensor
    solarise: Tensor

    def __getitem__(self, rows: slice) -> ViewParameters:
        return ViewParameters(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class ViewDistribution:
    """The distribution of a view; by default that published with the W2 uniformity term.

    Args:
        scale, ratio: bounds of the crop's share of the area and of its aspect ratio.
        flip, jitter, grey, blur, solarise: probabilities.
        brightness, contrast, saturation: factors are uniform in [max(0, 1 - s), 1 + s].
        hue: the shift is uniform in [-hue, hue] turns.
        sigma: bounds of the blur's standard deviation in pixels.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.2

    def geometry(self) -> ViewDistribution:
        """The crop and the flip alone, without changes of colour."""
        return replace(self, jitter=0.0, grey=0.0, blur=0.0, solarise=0.0)

    def parameters(self, uniform: Tensor, height: int, width: int) -> ViewParameters:
        """Turn (B, 36) numbers uniform in [0, 1) into parameters for images of a size."""
        top, left, crop_height, crop_width = self._crop(uniform, height, width)
        jitter = uniform[:, _JITTER] < self.jitter
        strength = constants((self.brightness, self.contrast, self.saturation), uniform.device)
        low = (1 - strength).clamp_min(0)
        blend = low + (1 + strength - low) * uniform[:, _BLEND]
        hue = self.hue * (2 * uniform[:, _HUE] - 1)
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * uniform[:, _SIGMA]
        return ViewParameters(
            top=top,
            left=left,
            height=crop_height,
            width=crop_width,
            flip=uniform[:, _FLIP] < self.flip,
            blend=torch.where(jitter[:, None], blend, 1.0),
            order=uniform[:, _ORDER].argsort(dim=1),
            hue=torch.where(jitter, hue, 0.0),
            hue_slot=(uniform[:, _HUE_SLOT] * 4).long(),
            grey=uniform[:, _GREY] < self.grey,
            sigma=torch.where(uniform[:, _BLUR] < self.blur, sigma, 0.0),
            solarise=uniform[:, _SOLARISE] < self.solarise,
        )

    def _crop(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The crop of torchvision's ``RandomResizedCrop``: the first of ten random boxes that fits into the
        image, else the largest central one with an allowed aspect ratio."""
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[:, _AREA])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        root = (low + (high - low) * uniform[:, _RATIO]).mul(0.5).exp()
        widths, heights = (area.sqrt() * root).round(), (area.sqrt() / root).round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.int().argmax(dim=1, keepdim=True)
        found = fits.any(dim=1)

        whole_height, whole_width = height, width
        if width / height < self.ratio[0]:
            whole_height = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            whole_width = round(height * self.ratio[1])
        h = torch.where(found, heights.gather(1, first)[:, 0], whole_height).long()
        w = torch.where(found, widths.gather(1, first)[:, 0], whole_width).long()
        top = torch.where(found, _below(uniform[:, _TOP], height - h + 1), (height - h) // 2)
        left = torch.where(found, _below(uniform[:, _LEFT], width - w + 1), (width - w) // 2)
        return top, left, h, w


def _below(uniform: Tensor, count: Tensor) -> Tensor:
    """Integers of 0, ..., count - 1, from numbers in [0, 1) whose product with ``count`` may round up to it."""
    return torch.minimum((uniform * count).long(), count - 1)


class RandomViews(RandomAugment):
    """uint8 (B, C, H, W), one channel or three, on any device -> a float32 view (B, C, size, size) per distribution.

    Views are normalised by ``normalise``; ``size`` is by default the images' own height. With ``cropped`` the images
    are (B, V, C, size, size), cropped by `RandomCrops` for V distributions, which ``decode`` has the workers do.
    """

    def __init__(
        self,
        normalise: Normalise,
        distributions: Sequence[ViewDistribution],
        *,
        size: int | None = None,
        cropped: bool = False,
    ) -> None:
        self.normalise = normalise
        self.distributions = tuple(distributions)
        self.size = size
        self.decode: PerImage | None = None
        if cropped:
            if size is None:
                raise ValueError("crops need a size")
            self.decode = PerImage(RandomCrops(size, self.distributions))

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        shape = (count, len(self.distributions), _COLUMNS)
        return {"uniform": torch.rand(shape, generator=generator, device=generator.device)}

    def apply(self, images: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        uniform = draws["uniform"].to(images.device)
        views = range(len(self.distributions))
        if self.decode is not None:
            return tuple(self._view(images[:, i], i, uniform[:, i]) for i in views)
        return tuple(self._view(images, i, uniform[:, i]) for i in views)

    def _view(self, images: Tensor, place: int, uniform: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size, view = self.size or height, self.distributions[place]
        parameters = view.parameters(uniform, height, width)
        part = len(images)
        if images.device.type == "cpu":
            part = max(1, _CPU_PIXELS // max(height * width, size * size))
        rows = [slice(low, low + part) for low in range(0, len(images), part)]
        made = (recoloured(self._crop(images[r], parameters[r], size), parameters[r], view) for r in rows)
        return torch.cat([self.normalise(x) for x in made])

    def _crop(self, images: Tensor, p: ViewParameters, size: int) -> Tensor:
        if self.decode is None:
            return resized_crop(images, p.top, p.left, p.height, p.width, p.flip, size)
        x = images.float() / 255
        return torch.where(p.flip[:, None, None, None], x.flip(3), x)


def recoloured(x: Tensor, p: ViewParameters, view: ViewDistribution) -> Tensor:
    """Everything behind the crop, but for what ``view`` never does: images (B, C, S, S) in [0, 1] as float32 views."""
    if view.jitter > 0:
        x = colour_jitter(x, p)
    if view.grey > 0:
        x = to_grey(x, p.grey)
    if view.blur > 0:
        x = gaussian_blur(x, p.sigma)
    return solarise(x, p.solarise) if view.solarise > 0 else x


def colour_jitter(x: Tensor, p: ViewParameters) -> Tensor:
    """Brightness, contrast, saturation and hue, each image (B, C, H, W) in [0, 1] in its own order.

    Three blends, the hue, three blends: each of an image's own three is done in the first round or in the
    second, and is the identity in the other.
    """
    factor = p.blend.gather(1, p.order).T
    before = p.hue_slot > torch.arange(3, device=x.device)[:, None]
    factor = torch.stack([torch.where(before, factor, 1.0), torch.where(before, 1.0, factor)])
    matrix, mean_share = blend_coefficients(p.order.T.expand(2, 3, -1), factor, grey_weights(x))
    for slot in range(3):
        x = blend_colours(x, matrix[0, slot], mean_share[0, slot])
    x = adjust_hue(x, p.hue)
    for slot in range(3):
        x = blend_colours(x, matrix[1, slot], mean_share[1, slot])
    return x


class RandomCrops:
    """PIL image -> uint8 (V, C, size, size): torchvision's ``RandomResizedCrop`` for each of V distributions, bicubic
    with antialiasing, out of one decoded image. Draws from `random`, which `PerImage` seeds."""

    def __init__(self, size: int, distributions: Sequence[ViewDistribution]) -> None:
        self.size = size
        self.distributions = tuple(distributions)

    def __call__(self, image: Image.Image) -> Tensor:
        made = []
        for view in self.distributions:
            left, top, width, height = _box(view, *image.size)
            crop = image.crop((left, top, left + width, top + height))
            made.append(to_uint8(crop.resize((self.size, self.size), Image.Resampling.BICUBIC)))
        return torch.stack(made)


def _box(view: ViewDistribution, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a crop, as `ViewDistribution._crop` draws them for a batch."""
    low, high = math.log(view.ratio[0]), math.log(view.ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area, ratio = width * height * random.uniform(*view.scale), math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    w, h = width, height
    if width / height < view.ratio[0]:
        h = round(width / view.ratio[0])
    elif width / height > view.ratio[1]:
        w = round(height * view.ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def random_views(dataset: ImageDataset, *distributions: ViewDistribution) -> RandomViews:
    """Random views of a data set for its loader, in batch on the device; of images on disk workers cut the crops."""
    normalise = Normalise(dataset.mean, dataset.std)
    return RandomViews(normalise, distributions, size=dataset.image_size, cropped=not dataset.in_batches)
