"""Labelled grey images from different sources with the same classes: the two domains of domain adaptation."""

from __future__ import annotations

import bz2
import gzip
import math
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wasskit.data.catalog import data_root
from wasskit.errors import UserError
from wasskit.system.readers import Damage, reader

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
    for pixels, digits in ((arrays[0], arrays[1]), (arrays[2], arrays[3])):
        fits = pixels.ndim == 3 and pixels.shape[1:] == (SIDE, SIDE) and digits.shape == pixels.shape[:1]
        if not fits or not len(digits) or digits.max() > 9:
            raise UserError(
                f"The files of MNIST in {root} do not fit together: images {pixels.shape}, labels {digits.shape}, "
                "where N images of 28 x 28 and N digits are expected; get them again."
            )
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


LARGEST_TEXT, MOST_ROWS = 1 << 25, 100_000
"""Bytes and rows up to which a LIBSVM file is unpacked: USPS has 7,291 rows in 18 million bytes. Its numbers take up to
four times as much, and each step of parsing that much again.
"""
LARGEST_UNPACKED = 1 << 28
"""Bytes up to which a packed file is unpacked: MNIST's largest has 47 million, a small file can hold any number."""


@reader("idx file of bytes", suffixes=("", ".gz"), largest=LARGEST_UNPACKED)
def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes, packed or not: ``(N,)`` or ``(N, H, W)``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 3:
            raise Damage("it does not begin as one of bytes does")
        shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
        announced, size = f"its header announces {' x '.join(map(str, shape))} bytes", math.prod(shape)
        if size > LARGEST_UNPACKED:
            raise Damage(f"{announced}, more than the {LARGEST_UNPACKED:,} of any such file")
        body = file.read(size)
        if len(body) < size:
            raise Damage(f"{announced}, it holds {len(body):,}")
        if file.read(1):
            raise Damage(f"{announced}, it holds more")
    # A copy, for numpy does not write to bytes.
    array: NDArray[np.uint8] = np.frombuffer(body, np.uint8).reshape(shape).copy()
    return array


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


@reader("packed LIBSVM file", suffixes=(".bz2",), largest=LARGEST_UNPACKED)
def read_libsvm(path: Path, width: int) -> tuple[Tensor, Tensor]:
    """Rows ``label index:value ...`` with labels and indices from 1: values (N, width) and labels (N)
    from 0.
    """
    with bz2.open(path) as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise Damage(f"it unpacks to more than {LARGEST_TEXT:,} bytes")
    if text.count(b"\n") > MOST_ROWS:
        raise Damage(f"it has more than {MOST_ROWS:,} rows")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of what is no number
        numbers = np.fromstring(text.replace(b":", b" "), dtype=np.float64, sep=" ")
    # By the line ends that were counted: splitlines() also ends a line at every carriage return.
    pairs = np.array([line.count(b":") for line in text.removesuffix(b"\n").split(b"\n")])
    if not len(pairs) or len(numbers) != len(pairs) + 2 * pairs.sum():
        raise Damage("a row is not a label and index:value pairs")
    starts = np.concatenate([[0], np.cumsum(2 * pairs + 1)[:-1]])
    rest = np.delete(numbers, starts)
    places, labels = rest[0::2] - 1, numbers[starts] - 1
    if not (np.isfinite(numbers).all() and ((places >= 0) & (places < width)).all()):
        raise Damage(f"a row has an index outside 1 to {width}, or a value that is no number")
    if not ((labels >= 0) & (labels < 10)).all():
        raise Damage("a label lies outside 1 to 10")
    labels = labels.astype(np.int64)
    values = np.zeros((len(pairs), width), dtype=np.float32)
    values[np.repeat(np.arange(len(pairs)), pairs), places.astype(np.int64)] = rest[1::2]
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
