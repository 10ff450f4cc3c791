"""CIFAR-10 as JPEG files."""

from __future__ import annotations

import functools
import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from wasskit.data.base import BadImage, ImageDataset

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@register(
    DatasetCard(
        "cifar10-jpeg",
        "CIFAR-10 as JPEG files in one blob (lossy), 32x32 colour",
        ("train", "test"),
        num_classes=10,
        image_size=32,
        channels=3,
        tasks=("classification", "ssl"),
        files=("train.npz", "test.npz"),
        source="any JPEG copy of CIFAR-10, packed as blob, offsets and labels",
        folders=("cifar10-jpeg", "cifar10_jpeg"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        counts={"train": 50_000, "test": 10_000},
    )
)
def cifar10_jpeg(request: Request) -> ImageDataset:
    """CIFAR-10 from JPEG files laid one after another: ``blob`` uint8, ``offsets`` int64 (N + 1), ``labels`` (N).

    Lossy: accuracies are not comparable with those on the original pixels.
    """
    from wasskit.data.decode import drop_bad_images

    path = request.find() / f"{request.split}.npz"
    images, labels, bad = _decode_blob(path, path.stat().st_mtime_ns)
    notes = [*request.count_notes(len(labels)), "pixels went through JPEG: not the published CIFAR-10"]
    dataset = request.dataset(classes=CIFAR10_CLASSES, labels=labels, images=images, notes=notes)
    return drop_bad_images(dataset, bad, request.corrupt)


# Decoding 50,000 files takes seconds and a run asks for train and val in turn.
@functools.lru_cache(maxsize=2)
def _decode_blob(path: Path, _: int) -> tuple[Tensor, Tensor, dict[int, BadImage]]:
    import numpy as np
    import torch

    from wasskit.data.base import BadImage
    from wasskit.data.decode import decode_all
    from wasskit.data.images import opened
    from wasskit.system.arrays import read_archive

    arrays = read_archive(path, ("blob", "offsets", "labels"))
    blob, offsets, labels = (arrays[key] for key in ("blob", "offsets", "labels"))
    whole = all(array.ndim == 1 and array.dtype.kind in "iu" for array in (offsets, labels))
    count = labels.size
    fits = whole and offsets.shape == (count + 1,) and count > 0 and bool((offsets[1:] >= offsets[:-1]).all())
    if not fits or blob.ndim != 1 or blob.dtype != np.uint8 or offsets[0] < 0 or offsets[-1] > blob.size:
        raise UserError(f"{path} is inconsistent: its offsets do not cut its {blob.size} bytes into {count} images")
    if labels.min() < 0 or labels.max() >= len(CIFAR10_CLASSES):
        raise UserError(f"{path} has labels outside 0..9")

    def read(index: int) -> Image.Image:
        return opened(blob[offsets[index] : offsets[index + 1]].tobytes())

    images, bad = decode_all(read, count, 32)
    named = {i: BadImage(f"{path} number {i}", failure.reason) for i, failure in bad.items()}
    return images, torch.from_numpy(labels.astype(np.int64)), named
