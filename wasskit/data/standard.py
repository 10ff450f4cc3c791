"""The standard transforms of a data set for training and evaluation, by the size of its images and where they lie."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.transforms import (
    Augment,
    CentreCrop,
    CropFlip,
    Normalise,
    PerImage,
    ResizeCrop,
    ShiftAffine,
    with_margin,
)
from wasskit.data.views import ViewDistribution, random_views

LARGE = 128
"""Images at least this wide get random resized crops; smaller ones keep their size."""


def train_transform(dataset: ImageDataset) -> Augment | PerImage:
    """The standard augmentation of supervised training.

    In memory: grey images (characters) a small affine map; colour images padding by an eighth of the side, crop and
    flip (He et al., 2016: 4 of 32). On disk: random resized crop of ``image_size`` (area 8-100 %), flip; of packed
    images in batch on the device.
    """
    normalise = Normalise(dataset.mean, dataset.std)
    if dataset.in_memory:
        if dataset.channels == 1:
            return ShiftAffine(normalise, shift=max(0.75, dataset.image_size / 16))
        if dataset.image_size < LARGE:
            return CropFlip(normalise, padding=max(1, dataset.image_size // 8))
    if dataset.packed is not None:
        return random_views(dataset, ViewDistribution().geometry())
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [v2.RandomResizedCrop(dataset.image_size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
    return PerImage(pipeline, finish=normalise)


def eval_transform(dataset: ImageDataset) -> Callable[[Tensor], Tensor] | PerImage:
    """The standard evaluation transform: in memory normalisation alone; on disk the shorter side to 8/7 of
    ``image_size`` (256 for 224; to ``image_size`` where the set has no ``margin``), centre crop, normalisation.

    Images that are packed at 256 pixels have for 224 the same pixels as those on disk."""
    normalise = Normalise(dataset.mean, dataset.std)
    if dataset.in_memory:
        return normalise
    size = dataset.image_size
    resize = with_margin(size) if dataset.margin else size
    if dataset.packed is not None:
        return CentreCrop(normalise, size, resize)
    return PerImage(ResizeCrop(size, resize), finish=normalise)
