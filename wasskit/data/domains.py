"""Labelled grey images from different sources with the same classes: the two domains of domain adaptation."""

from __future__ import annotations

import bz2
import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wasskit.data.catalog import data_root
from wasskit.errors import UserError

SIDE = 28
"""Side of the images of all domains, in pixels."""

DOMAINS = ("digits-a", "digits-b", "mnist", "usps")


@dataclass(frozen=True)
class Domain:
    """Images (N, 1, 28, 28) in [0, 1], bright on dark, and their labels (N), for training and for testing."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_domain(name: str, root: str | os.PathLike[str] | None = None) -> Domain:
    """One of ``DOMAINS``, or any data set of images that fit in memory, in grey and at 28 x 28.

    ``digits-a`` and ``digits-b`` are the halves of scikit-learn's digits, written by different people;
    those of the second are sheared, thinned and paler.

    Raises:
        UserError: the name is unknown, or files are missing.
    """
    if name == "mnist":
        return mnist(data_root(root))
    if name == "usps":
        return usps(data_root(root))
    if name in ("digits-a", "digits-b"):
        return digit_half(name)
    from wasskit.data.registry import load_dataset

    parts = []
    for split in ("train", "test"):
        dataset = load_dataset(name, split, root=root)
        if dataset.images is None or dataset.labels is None:
            raise UserError(
                f"The data set {name} does not fit in memory or has no labels, which a domain needs."
            )
        parts += [to_side(dataset.images.float().mean(1, keepdim=True) / 255.0), dataset.labels]
    return Domain(name, *parts)


def to_side(images: Tensor) -> Tensor:
    """Images (N, 1, H, W) resampled to 28 x 28 (bilinear)."""
    if images.shape[-2:] == (SIDE, SIDE):
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


# --- MNIST ------------------------------------------------------------------------------------------------
# ------------


def mnist(root: Path) -> Domain:
    """MNIST from its four idx files, packed or not (LeCun, Cortes and Burges)."""
    folders = [root / "mnist" / "MNIST" / "raw", root / "MNIST" / "raw", root / "mnist", root]
    arrays = []
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            arrays.append(read_idx(find(folders, f"{part}-{kind}-ubyte", "MNIST")))
    images = [torch.from_numpy(a).unsqueeze(1).float() / 255.0 for a in (arrays[0], arrays[2])]
    labels = [torch.from_numpy(a.astype(np.int64)) for a in (arrays[1], arrays[3])]
    return Domain("mnist", images[0], labels[0], images[1], labels[1])


def find(folders: list[Path], name: str, title: str) -> Path:
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(
        f"{title} is not in {folders[-1]} (nor in {folders[0]}): expected {name}.gz and its three companions; name the "
        "folder that holds mnist/MNIST/raw by --data-root or WASSKIT_DATA."
    )


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An idx file of bytes. Raises `UserError` where it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = data[3]
        shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
        array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
            np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
        )
        return array
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


# --- USPS -------------------------------------------------------------------------------------------------
# ------------


def usps(root: Path) -> Domain:
    """USPS digits, 16 x 16, from the LIBSVM files ``usps.bz2`` and ``usps.t.bz2``."""
    parts: list[Tensor] = []
    for name in ("usps.bz2", "usps.t.bz2"):
        paths = [root / "usps" / name, root / name]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise UserError(
                f"USPS is not in {root} (nor in {root / 'usps'}): expected {name}, from the LIBSVM data sets; name its "
                "folder by --data-root or WASSKIT_DATA."
            )
        images, labels = read_libsvm(path, 256)
        parts += [to_side((images.view(-1, 1, 16, 16) + 1.0) / 2.0).clamp(0, 1), labels]
    return Domain("usps", *parts)


def read_libsvm(path: Path, width: int) -> tuple[Tensor, Tensor]:
    """Rows ``label index:value ...`` with labels and indices from 1: values (N, width) and labels (N)
    from 0.
    """
    try:
        text = bz2.decompress(path.read_bytes())
        numbers = np.fromstring(text.replace(b":", b" "), dtype=np.float64, sep=" ")
        pairs = np.array([line.count(b":") for line in text.splitlines()])
        if len(numbers) != len(pairs) + 2 * pairs.sum():
            raise ValueError("a row is not a label and index:value pairs")
        starts = np.concatenate([[0], np.cumsum(2 * pairs + 1)[:-1]])
        labels = numbers[starts].astype(np.int64) - 1
        rest = np.delete(numbers, starts)
        values = np.zeros((len(pairs), width), dtype=np.float32)
        values[np.repeat(np.arange(len(pairs)), pairs), rest[0::2].astype(np.int64) - 1] = rest[1::2]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    return torch.from_numpy(values), torch.from_numpy(labels)


# --- scikit-learn's digits
# --------------------------------------------------------------------------------------------


def digit_half(name: str) -> Domain:
    """Every second image of scikit-learn's digits, as they are or changed in look."""
    from wasskit.data.registry import load_dataset

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
    """Sheared, thinner and paler."""
    shear = torch.tensor([[1.0, 0.35, 0.0], [0.0, 1.0, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(shear, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    thinner = -F.max_pool2d(-moved, 3, 1, 1)
    return 0.7 * (0.6 * thinner + 0.4 * moved)
