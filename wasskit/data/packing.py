"""Making packs: every image decoded once, resized, cut to a square and written, so that training only copies.

What a kill leaves is finished by the next call: the draft has the header, labels and checksums of the finished file,
and the chunks whose pixels have their checksum are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wasskit.data.base import ImageDataset
from wasskit.data.formats.pack import CHUNK, SUFFIX, Pack, PackHeader, open_pack, read_pack
from wasskit.data.loaders import EvalLoader
from wasskit.data.transforms import PerImage, ResizeCrop
from wasskit.errors import RunFailed, UserError
from wasskit.system.files import sync_folder
from wasskit.system.locks import LockHeld, held

_REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Packed:
    """A finished pack: its file, and how many of its images were found made (``kept``) and made now."""

    path: Path
    count: int
    kept: int

    @property
    def made(self) -> int:
        return self.count - self.kept


def pack_split(
    dataset: ImageDataset,
    folder: Path,
    *,
    side: int,
    workers: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda message: None,
) -> Packed:
    """Write ``folder/SPLIT.pack``, from the beginning or from where an earlier call ended; verify it before it has
    its name.

    The shorter side of each image is resized to ``side`` (bilinear, antialiased) and the centre square kept.

    Raises:
        UserError: the set is not on disk, the disk lacks room, an image cannot be read, another process packs here, or
            another pack or draft is there and ``overwrite`` is not given.
    """
    if dataset.in_batches:
        raise UserError(f"{dataset.name} is not read from image files: it needs no packing")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name another place for the pack.")
    header = _header(dataset, side)
    path = folder / f"{dataset.split}{SUFFIX}"
    draft = folder / f".{path.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    labels = dataset.filled_labels().numpy().astype("<i8").tobytes()
    try:
        with held(folder / ".pack.lock"):
            if path.exists() and not overwrite:
                return _finished(path, header, labels, dataset)
            begun = _begin(draft, header, labels, dataset, overwrite=overwrite)
            kept = _whole_until(begun)
            if kept:
                say(f"{dataset.split}: {kept:,} of {header.count:,} images are packed already")
            _fill(begun, dataset, kept, workers, say)
            say(f"{dataset.split}: verifying {header.count:,} images")
            if _whole_until(read_pack(draft)) < header.count:
                raise RunFailed(
                    f"{draft} is not what was written to it: the disk fails, or another process writes there"
                )
            draft.replace(path)
            sync_folder(folder)
            return Packed(path, header.count, kept)
    except LockHeld as holder:
        raise UserError(
            f"another process packs into {folder} ({holder}); wait for it, or name another folder"
        ) from None


def _header(dataset: ImageDataset, side: int) -> PackHeader:
    return PackHeader(
        source=_text(dataset.name),
        split=dataset.split,
        images=_digest(dataset, files=True),
        count=len(dataset),
        channels=dataset.channels,
        side=side,
        image_size=min(dataset.image_size, round(side * 224 / 256)),
        mean=tuple(map(float, dataset.mean)),
        std=tuple(map(float, dataset.std)),
        classes=tuple(map(_text, dataset.classes)),
        labelled=dataset.labels is not None,
        notes=tuple(map(_text, dataset.notes)),
    )


def _digest(dataset: ImageDataset, *, files: bool) -> str:
    """A digest of the names of the images, with ``files`` also of the sizes and times of change of their files."""
    digest = hashlib.blake2b(digest_size=16)
    for place in range(len(dataset)):
        name = f"{place}" if dataset.paths is None else str(dataset.paths[place])
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        if files and dataset.paths is not None:
            with contextlib.suppress(OSError):  # of one that is gone its decoding says so
                found = dataset.paths[place].stat()
                digest.update(f"{found.st_size} {found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _is_of(found: Pack, header: PackHeader, labels: bytes, dataset: ImageDataset) -> bool:
    """Whether a pack or a draft is of these images and settings. Those of earlier versions know their names alone."""
    if replace(found.header, images=header.images) != header or found.labels.astype("<i8").tobytes() != labels:
        return False
    return found.header.images == header.images or found.header.images == _digest(dataset, files=False)


def _text(name: str) -> str:
    """A name as JSON in UTF-8 can hold it."""
    return name.encode("utf-8", "backslashreplace").decode()


def _finished(path: Path, header: PackHeader, labels: bytes, dataset: ImageDataset) -> Packed:
    """A pack that is there already, of the same images."""
    found = read_pack(path)
    if not _is_of(found, header, labels, dataset):
        raise UserError(f"{path} exists already, of other images or settings: replace it by --overwrite")
    return Packed(path, header.count, header.count)


def _begin(draft: Path, header: PackHeader, labels: bytes, dataset: ImageDataset, *, overwrite: bool) -> Pack:
    """The draft, as it was left or new."""
    if draft.exists() and not overwrite:
        # Of a draft that ends before its time, or whose first bytes were never written, nothing is kept.
        found = _or_none(draft)
        if found is not None and _is_of(found, header, labels, dataset):
            return found
        if found is not None:
            raise UserError(
                f"{draft} was begun from other images or settings: finish it with those, or begin anew by --overwrite"
            )
    start = header.encoded()
    pixels = header.count * header.image_bytes
    need = len(start) + pixels + len(labels) + 4 * (header.chunks + 1)
    draft.unlink(missing_ok=True)
    free = shutil.disk_usage(draft.parent).free
    if need > free:
        raise UserError(
            f"{draft.parent} has {free / 2**30:,.1f} GiB free, and {header.count:,} images of {header.side} pixels "
            f"need {need / 2**30:,.1f}: free some space, name another folder, or take a smaller --size"
        )
    with draft.open("xb") as file:
        file.truncate(need)
        file.seek(len(start) + pixels)
        file.write(labels)
        file.seek(need - 4)
        file.write(np.uint32(zlib.crc32(labels)).astype("<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())
        # What can be opened as a pack is then one that was begun as a whole.
        file.seek(0)
        file.write(start)
    return read_pack(draft)


def _or_none(draft: Path) -> Pack | None:
    try:
        return open_pack(draft)
    except Exception:
        return None


def _whole_until(pack: Pack) -> int:
    """How many images at the beginning are packed: up to the first chunk that does not have its checksum."""
    whole = 0
    for end, right in pack.damaged():
        if not right:
            return whole
        whole = end
    return whole


def _fill(pack: Pack, dataset: ImageDataset, kept: int, workers: int | None, say: Callable[[str], object]) -> None:
    """Decode and write the images from ``kept`` on, each chunk before its checksum."""
    count = pack.header.count
    if kept == count:
        return
    rest = dataset.subset(torch.arange(kept, count))
    loader = EvalLoader(rest, CHUNK, PerImage(ResizeCrop(pack.header.side)), workers=workers, rank=0, world_size=1)
    try:
        with pack.path.open("r+b") as file:
            for end, content in _timed(loader, kept, count, dataset.split, say):
                file.seek(pack.pixels_at + (end - len(content)) * pack.header.image_bytes)
                file.write(content.data)
                file.seek(pack.sums_at + 4 * ((end - 1) // CHUNK))
                file.write(np.uint32(zlib.crc32(content.data)).astype("<u4").tobytes())
            file.flush()
            os.fsync(file.fileno())
    finally:
        loader.close()


def _timed(
    loader: EvalLoader, kept: int, count: int, split: str, say: Callable[[str], object]
) -> Iterator[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    """The chunks, each with the number of images up to its end; says now and then how far it is."""
    began = said = time.monotonic()
    end = kept
    for batch in loader:
        pixels = batch.images.numpy()
        end += len(pixels)
        yield end, pixels
        now = time.monotonic()
        if now - said > _REPORT_SECONDS:
            said, rate = now, (end - kept) / (now - began)
            say(
                f"{split}: {end:,} of {count:,} images, {rate:,.0f} a second, {(count - end) / rate / 60:,.0f} min left"
            )
