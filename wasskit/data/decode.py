"""Decoding many image files at once: to look for damaged ones, or to have them all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from wasskit.data.base import BadImage, ImageDataset, UnreadableImage, to_mode
from wasskit.data.images import opened
from wasskit.data.transforms import ResizeCrop
from wasskit.errors import UserError
from wasskit.system.processes import cores

T = TypeVar("T")

SCAN_LIMIT = 2_000
"""Up to so many images are all decoded once before a run that refuses damaged ones; larger sets name the first
damaged image when they come to it."""


def threaded(function: Callable[[int], T], count: int, threads: int | None = None) -> Iterator[T]:
    """``function(0), function(1), ...`` in order, computed by threads (image decoders let go of the interpreter)."""
    threads = threads or min(16, cores())
    if threads == 1 or count < 64:
        yield from map(function, range(count))
        return
    with ThreadPoolExecutor(threads) as pool:
        # In stretches, so that results do not pile up before a slow consumer.
        for low in range(0, count, 1024):
            yield from pool.map(function, range(low, min(low + 1024, count)), chunksize=16)


def without_bad_images(dataset: ImageDataset, corrupt: str, *, scan: bool | None = None) -> ImageDataset:
    """The data set on disk without its unreadable images ("skip"), or a `UserError` that names them ("refuse").

    ``scan``: decode every image now. By default that is done to skip, and for sets up to `SCAN_LIMIT` images.
    """
    if scan is None:
        scan = corrupt == "skip" or len(dataset) <= SCAN_LIMIT
    return drop_bad_images(dataset, scan_images(dataset) if scan else {}, corrupt)


def scan_images(dataset: ImageDataset, threads: int | None = None) -> dict[int, BadImage]:
    """The images of a set on disk that cannot be decoded, by their index."""
    paths = dataset.paths
    head = dataset.reader if paths is None else lambda index: opened(paths[index])
    if head is None:
        raise ValueError("a set in memory has no images to be read")

    def check(index: int) -> BadImage | None:
        """Decode an image to its end; JPEG at an eighth of its size, which reads all of its data in a third of the
        time."""
        try:
            with head(index) as image:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        except Exception:
            try:
                dataset.image(index)
            except UnreadableImage as error:
                return error.bad
        return None

    return {i: bad for i, bad in enumerate(threaded(check, len(dataset), threads)) if bad is not None}


def drop_bad_images(dataset: ImageDataset, bad: dict[int, BadImage], corrupt: str) -> ImageDataset:
    if not bad:
        return dataset
    if corrupt == "refuse":
        raise UserError(bad_images_message(list(bad.values()), len(dataset)))
    keep = torch.ones(len(dataset), dtype=torch.bool)
    keep[list(bad)] = False
    kept = dataset.subset(torch.nonzero(keep).reshape(-1))
    note = f"{dataset.name}/{dataset.split}: {len(bad):,} unreadable images left out"
    return replace(kept, skipped=(*dataset.skipped, *bad.values()), notes=(*dataset.notes, note))


def bad_images_message(bad: Sequence[BadImage], total: int, most: int = 5) -> str:
    named = "; ".join(str(one) for one in bad[:most])
    more = f"; and {len(bad) - most} more" if len(bad) > most else ""
    return (
        f"{len(bad):,} of {total:,} images cannot be read: {named}{more}. "
        "Repair or remove them, or pass --corrupt skip to leave them out"
    )


def decode_all(
    read: Callable[[int], Image.Image], count: int, size: int, channels: int = 3, threads: int | None = None
) -> tuple[Tensor, dict[int, BadImage]]:
    """All images as uint8 (N, C, size, size), the shorter side resized and the centre cut out where the size differs.

    Returns the images and those that could not be read, by index; their pixels are zero.
    """
    images = torch.zeros((count, channels, size, size), dtype=torch.uint8)
    fit = ResizeCrop(size)

    def one(index: int) -> BadImage | None:
        try:
            images[index] = fit(to_mode(read(index), channels))
        except UnreadableImage as error:
            return error.bad
        # As in read_image: a damaged file can make a decoder raise nearly anything.
        except Exception as error:
            return BadImage(f"number {index}", str(error) or type(error).__name__)
        return None

    bad = {i: failure for i, failure in enumerate(threaded(one, count, threads)) if failure is not None}
    return images, bad


def to_memory(
    dataset: ImageDataset, size: int | None = None, *, corrupt: str = "refuse", threads: int | None = None
) -> ImageDataset:
    """A copy of a set on disk with all images decoded to squares of ``size`` (default ``image_size``) in memory."""
    size = size or dataset.image_size
    images, bad = decode_all(dataset.image, len(dataset), size, dataset.channels, threads)
    held = replace(dataset, images=images, packed=None, paths=None, reader=None)
    return drop_bad_images(held, bad, corrupt)
