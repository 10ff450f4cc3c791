"""Two domains of images for the style experiment: folders, or patches of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wasskit.data.base import ImageDataset, read_image
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.plugins.w2gn.experiments.palette import read_pixels, sample_photographs

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


class ImageDomain(NamedTuple):
    """Images (N, 3, S, S) uint8 for training and for testing."""

    name: str
    train: Tensor
    test: Tensor


def image_folders(root: Path, size: int) -> tuple[ImageDomain, ImageDomain]:
    """``trainA``, ``trainB`` (and ``testA``, ``testB`` where they are) below ``root``, as CycleGAN's data
    sets lie.

    Images are resized to ``size`` pixels. Without test folders an eighth of the training images tests.

    Raises:
        UserError: a folder is missing or empty, or an image unreadable.
    """
    domains = []
    for letter in "AB":
        train = folder_images(root / f"train{letter}", size)
        test_folder = root / f"test{letter}"
        if test_folder.is_dir():
            test = folder_images(test_folder, size)
        else:
            count = max(len(train) // 8, min(2, len(train) // 2))
            train, test = train[count:], train[:count]
        domains.append(ImageDomain(letter, train, test))
    return domains[0], domains[1]


def folder_dataset(folder: Path, size: int) -> tuple[ImageDataset, ImageDataset]:
    """The images below a folder as training and test set (every tenth), read from disk when they are needed."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give one that holds images.")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(paths) < 20:
        raise UserError(f"{folder} holds {len(paths)} images: an autoencoder needs at least twenty.")
    train = [path for i, path in enumerate(paths) if i % 10]

    def dataset(split: str, chosen: list[Path]) -> ImageDataset:
        return ImageDataset(folder.name, split, ("image",), paths=chosen, image_size=size)

    return dataset("train", train), dataset("test", paths[::10])


def folder_images(folder: Path, size: int) -> Tensor:
    """All images in a folder at ``size`` pixels."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: two domains lie in trainA and trainB (and testA, testB) of one folder, "
            "as in CycleGAN's data sets."
        )
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if len(paths) < 4:
        raise UserError(f"{folder} holds {len(paths)} images: a domain needs at least four.")
    arrays = [np.asarray(read_image(path, 3).resize((size, size))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def photograph_patches(size: int, count: int, seed: int) -> tuple[ImageDomain, ImageDomain]:
    """Random square patches of scikit-learn's two photographs, cut at one to three times ``size`` and
    resampled.

    Test patches are other random ones of the same photographs and may overlap with training patches.
    """
    domains = []
    for path in sample_photographs():
        pixels = torch.from_numpy(read_pixels(path)).permute(2, 0, 1).float()
        train = patches(pixels, size, count, derive_seed(seed, path.stem, "train"))
        domains.append(
            ImageDomain(path.stem, train, patches(pixels, size, 64, derive_seed(seed, path.stem, "test")))
        )
    return domains[0], domains[1]


def patches(pixels: Tensor, size: int, count: int, seed: int) -> Tensor:
    """``count`` random patches (count, 3, size, size) uint8 of an image (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    _, height, width = pixels.shape
    largest = min(3 * size, height, width)
    sides = torch.randint(min(size, largest), largest + 1, (count,), generator=generator).tolist()
    places = torch.rand(count, 2, generator=generator).tolist()
    cut = []
    for side, (down, right) in zip(sides, places, strict=True):
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        patch = pixels[None, :, top : top + side, left : left + side]
        cut.append(
            torch.nn.functional.interpolate(
                patch, (size, size), mode="bilinear", align_corners=False, antialias=True
            )
        )
    return torch.cat(cut).round().clamp(0, 255).to(torch.uint8)


def scaled(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1.0


def unscaled(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (images + 1.0) / 2.0
