"""Labelled grey images from different sources with the same classes: the two domains of domain adaptation."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wasskit.data.catalog import CARDS, DOMAINS
from wasskit.data.registry import load_dataset
from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean

SIDE = 28
"""Side of the images of all domains, in pixels."""


@dataclass(frozen=True)
class Domain:
    """Images (N, 1, 28, 28) in [0, 1], bright on dark, and their labels (N), for training and for testing."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_domain(name: str, root: str | os.PathLike[str] | None = None) -> Domain:
    """One of ``wasskit.data.catalog.DOMAINS``, or any data set of images that fit in memory, in grey and at 28 x 28.

    ``digits-a`` and ``digits-b`` are the halves of scikit-learn's digits, written by different people;
    those of the second are sheared, thinned and paler.

    Raises:
        UserError: the name is unknown, or files are missing.
    """
    if name in ("digits-a", "digits-b"):
        return digit_half(name)
    if name not in CARDS:
        known = [*dict.fromkeys([*DOMAINS, *CARDS])]
        advice = did_you_mean(name, known)
        raise UserError(f"no domain is called {name!r}; there are {', '.join(known)}.{advice}")
    parts = []
    for split in ("train", "test"):
        dataset = load_dataset(name, split, root=root)
        if dataset.images is None or dataset.labels is None:
            raise UserError(f"The data set {name} does not fit in memory or has no labels, which a domain needs.")
        parts += [to_side(dataset.images.float().mean(1, keepdim=True) / 255.0), dataset.labels]
    return Domain(name, *parts)


def to_side(images: Tensor) -> Tensor:
    """Images (N, 1, H, W) resampled to 28 x 28 (bilinear)."""
    if images.shape[-2:] == (SIDE, SIDE):
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def digit_half(name: str) -> Domain:
    """Every second image of scikit-learn's digits, as they are or changed in look."""
    start = 0 if name == "digits-a" else 1
    parts = []
    for split in ("train", "test"):
        dataset = load_dataset("digits", split)
        assert dataset.images is not None
        assert dataset.labels is not None
        images = to_side(dataset.images[start::2].float() / 255.0)
        parts += [images if start == 0 else changed_look(images), dataset.labels[start::2]]
    return Domain(name, *parts)


def changed_look(images: Tensor) -> Tensor:
    """Images sheared, with thinner strokes and less contrast."""
    shear = torch.tensor([[1.0, 0.35, 0.0], [0.0, 1.0, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(shear, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    thinner = -F.max_pool2d(-moved, 3, 1, 1)
    return 0.7 * (0.6 * thinner + 0.4 * moved)
