"""Transforms of images for training and evaluation; `wasskit.data.standard` chooses those of a data set.

Two contracts:

* **Batched** (sets in memory, or decoded to one size): ``augment(images, generator)`` takes uint8 (B, C, H,
  W) on any device and gives one float tensor, or a tuple of them, one per view, first dimension B. Each image
  must be treated by itself. An augmentation that is split into ``draw(n, generator) -> {name: (n, ...)
  tensor}`` and ``apply(images, draws)`` (see `RandomAugment`) lets each rank draw the numbers of the whole
  batch, which are few, and work on its own images alone; any other callable still gives the same result on
  every number of ranks, but does the work of the whole batch on each.
* **Per image** (sets on disk): `PerImage` wraps a pipeline ``PIL image -> tensor or tuple of tensors`` such
  as those of torchvision; it runs in worker processes, each image under its own seed.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Views = Tensor | tuple[Tensor, ...]
Augment = Callable[[Tensor, torch.Generator], Views]
Draws = Mapping[str, Tensor]


class Normalise:
    """uint8 (B, C, H, W) in [0, 255] -> float32 ``(x / 255 - mean) / std``; float images are taken to be in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._constants: dict[tuple[torch.device, float], tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        top = 1.0 if images.is_floating_point() else 255.0
        scale, shift = self._on(images.device, top)
        return torch.addcmul(shift, images.to(torch.float32), scale)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": {}}

    def _on(self, device: torch.device, top: float) -> tuple[Tensor, Tensor]:
        if (device, top) not in self._constants:
            mean = torch.tensor(self.mean, dtype=torch.float64)
            std = torch.tensor(self.std, dtype=torch.float64)
            pair = ((1 / (top * std)), (-mean / std))
            scale, shift = (x.to(torch.float32).view(1, -1, 1, 1).to(device) for x in pair)
            self._constants[device, top] = scale, shift
        return self._constants[device, top]


class RandomAugment(ABC):
    """A batched augmentation split into drawing its random numbers and applying them."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """All random numbers for ``count`` images: tensors with first dimension ``count`` on the generator's device."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Views:
        """uint8 (B, C, H, W) and B rows of draws -> float views; deterministic."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Views:
        return self.apply(images, self.draw(len(images), generator))


class CropFlip(RandomAugment):
    """Zero-pad by ``padding``, crop the original size at a random place, flip left-right with probability 1/2.

    The distribution of torchvision's ``RandomCrop(size, padding)`` and ``RandomHorizontalFlip``.
    """

    def __init__(self, normalise: Normalise, padding: int = 4, flip: bool = True) -> None:
        self.normalise = normalise
        self.padding = padding
        self.flip = flip

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        device = generator.device
        shape = (count, 2)
        offset = torch.randint(0, 2 * self.padding + 1, shape, generator=generator, device=device)
        flip = torch.rand(count, generator=generator, device=device) < 0.5
        return {"offset": offset, "flip": flip}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[2:]
        device = images.device
        padded = F.pad(images, [self.padding] * 4)
        rows = draws["offset"][:, :1] + torch.arange(height, device=device)
        across = torch.arange(width, device=device)
        if self.flip:
            across = torch.where(draws["flip"][:, None], width - 1 - across, across)
        columns = draws["offset"][:, 1:] + across
        flat = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = flat.reshape(len(images), 1, -1).expand(-1, images.shape[1], -1)
        return self.normalise(padded.flatten(2).gather(2, index).view_as(images))


class ShiftAffine(RandomAugment):
    """A small rotation, scaling and shift, for handwritten characters: bilinear, black outside, no flip.

    ``degrees``: rotation uniform in [-degrees, degrees]; ``scale``: factor uniform in [1 - scale, 1 + scale];
    ``shift``: pixels, uniform in [-shift, shift] along each axis.
    """

    def __init__(self, normalise: Normalise, degrees: float = 8.0, scale: float = 0.08, shift: float = 0.75) -> None:
        self.normalise = normalise
        self.degrees = degrees
        self.scale = scale
        self.shift = shift

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        device = generator.device
        unit = torch.rand(count, 4, generator=generator, device=device) * 2 - 1
        return {"unit": unit}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        unit = draws["unit"]
        height, width = images.shape[2:]
        angle = unit[:, 0] * (self.degrees * torch.pi / 180)
        zoom = 1 / (1 + unit[:, 1] * self.scale)
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        theta = torch.stack(
            [
                torch.stack([cosine, -sine * (height / width), unit[:, 2] * (2 * self.shift / width)], dim=1),
                torch.stack([sine * (width / height), cosine, unit[:, 3] * (2 * self.shift / height)], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images.to(torch.float32) / 255, grid, mode="bilinear", align_corners=False)
        return self.normalise(moved)


class PerImage:
    """A pipeline for one decoded image, run in workers under the image's own seed.

    ``pipeline``: PIL image -> tensor (C, H, W), or a tuple of them; picklable. It may draw from torch's
    global CPU generator (as torchvision's transforms do) and from `random`, which are seeded for the image
    and put back afterwards; NumPy's global generator is not covered. ``finish``, if given, is applied to each
    collated batch of views on the training device: leave the pipeline's output uint8 and normalise there.
    """

    def __init__(
        self, pipeline: Callable[[Image.Image], Views], finish: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.pipeline = pipeline
        self.finish = finish

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Views:
        if generator is None:
            return self.pipeline(image)
        default = torch.default_generator
        saved, saved_random = default.get_state(), random.getstate()
        try:
            default.manual_seed(generator.initial_seed())
            random.seed(generator.initial_seed())
            return self.pipeline(image)
        finally:
            default.set_state(saved)
            random.setstate(saved_random)


class CentreCrop:
    """uint8 (B, C, S, S) -> float32 (B, C, size, size), normalised: resized to ``resize`` (bilinear, antialiased, as
    8-bit values) where S differs from it, then the centre."""

    def __init__(self, normalise: Normalise, size: int, resize: int) -> None:
        self.normalise = normalise
        self.size = size
        self.resize = resize

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.resize:
            shape = (self.resize, self.resize)
            resized = F.interpolate(images.float(), shape, mode="bilinear", align_corners=False, antialias=True)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
        start = round((self.resize - self.size) / 2)
        centre = slice(start, start + self.size)
        return self.normalise(images[..., centre, centre])


def with_margin(size: int) -> int:
    """The side that images of a set of ``size`` have before evaluation crops the margin away: 8/7, 256 for 224."""
    return round(size * 256 / 224)


class ResizeCrop:
    """PIL image -> uint8 (C, size, size): the shorter side to ``resize`` (bilinear, antialiased), then the centre."""

    def __init__(self, size: int, resize: int | None = None) -> None:
        self.size = size
        self.resize = resize or size

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = image.size
        ratio = self.resize / min(width, height)
        wide, high = max(self.size, round(width * ratio)), max(self.size, round(height * ratio))
        left, top = round((wide - self.size) / 2), round((high - self.size) / 2)
        resized = image.resize((wide, high), Image.Resampling.BILINEAR)
        return to_uint8(resized.crop((left, top, left + self.size, top + self.size)))


def to_uint8(image: Image.Image) -> Tensor:
    """PIL image L or RGB -> uint8 (C, H, W)."""
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
