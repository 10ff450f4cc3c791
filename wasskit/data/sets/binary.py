"""Sets kept in memory that come as binary files or many small images: STL-10, Tiny ImageNet, CIFAR-10 as
JPEG."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wasskit.data.base import BadImage, ImageDataset
from wasskit.data.decode import decode_all, drop_bad_images, to_memory
from wasskit.data.folder import list_images, read_class_folders
from wasskit.data.images import opened
from wasskit.data.registry import Request, register
from wasskit.errors import UserError
from wasskit.system.arrays import read_archive
from wasskit.system.documents import read_text
from wasskit.system.readers import Damage, reader

_STL10_ADVICE = "unpack stl10_binary.tar.gz again"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@register("cifar10-jpeg")
def cifar10_jpeg(request: Request) -> ImageDataset:
    """CIFAR-10 from JPEG files laid one after another: ``blob`` uint8, ``offsets`` int64 (N + 1), ``labels``
    (N).

    Lossy: accuracies are not comparable with those on the original pixels.
    """
    assert request.card is not None
    path = request.find() / f"{request.split}.npz"
    images, labels, bad = _decode_blob(path, path.stat().st_mtime_ns)
    dataset = ImageDataset(
        request.name,
        request.split,
        CIFAR10_CLASSES,
        labels=labels,
        images=images,
        mean=request.card.mean,
        std=request.card.std,
        notes=[*request.count_notes(len(labels)), "pixels went through JPEG: not the published CIFAR-10"],
    )
    return drop_bad_images(dataset, bad, request.corrupt)


# Decoding 50,000 files takes seconds and a run asks for train and val in turn.
@functools.lru_cache(maxsize=2)
def _decode_blob(path: Path, _: int) -> tuple[Tensor, Tensor, dict[int, BadImage]]:
    arrays = read_archive(path, ("blob", "offsets", "labels"))
    blob, offsets, labels = (arrays[key] for key in ("blob", "offsets", "labels"))
    whole = all(array.ndim == 1 and array.dtype.kind in "iu" for array in (offsets, labels))
    count = labels.size
    fits = whole and offsets.shape == (count + 1,) and count > 0 and bool((offsets[1:] >= offsets[:-1]).all())
    if not fits or blob.ndim != 1 or blob.dtype != np.uint8 or offsets[0] < 0 or offsets[-1] > blob.size:
        raise UserError(
            f"{path} is inconsistent: its offsets do not cut its {blob.size} bytes into {count} images"
        )
    if labels.min() < 0 or labels.max() >= len(CIFAR10_CLASSES):
        raise UserError(f"{path} has labels outside 0..9")

    def read(index: int) -> Image.Image:
        return opened(blob[offsets[index] : offsets[index + 1]].tobytes())

    images, bad = decode_all(read, count, 32)
    named = {i: BadImage(f"{path} number {i}", failure.reason) for i, failure in bad.items()}
    return images, torch.from_numpy(labels.astype(np.int64)), named


@register("stl10")
def stl10(request: Request) -> ImageDataset:
    """STL-10 (Coates, Ng & Lee, 2011): "train" 5,000, "test" 8,000, "unlabelled" 100,000,
    "train+unlabelled"."""
    card = request.card
    assert card is not None
    base = request.obtain(_download_stl10)
    folder = base / "stl10_binary"
    names = folder / "class_names.txt"
    classes = read_text(names).split() if names.exists() else [str(c) for c in range(1, 11)]
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for part in request.split.split("+"):
        stem = "unlabeled" if part == "unlabelled" else part
        images.append(_read_stl10_images(folder / f"{stem}_X.bin"))
        if part == "unlabelled":
            labels.append(torch.full((len(images[-1]),), -1))
            continue
        target = _read_stl10_labels(folder / f"{stem}_y.bin").astype(np.int64) - 1
        if len(target) != len(images[-1]) or target.min(initial=0) < 0 or target.max(initial=0) > 9:
            raise UserError(
                f"{folder / stem}_y.bin does not fit the {len(images[-1])} images of {stem}_X.bin"
            )
        labels.append(torch.from_numpy(target))
    count = sum(len(part) for part in images)
    return ImageDataset(
        request.name,
        request.split,
        classes,
        labels=None if request.split == "unlabelled" else torch.cat(labels),
        images=images[0] if len(images) == 1 else torch.cat(images),
        mean=card.mean,
        std=card.std,
        notes=request.count_notes(count),
    )


@reader("file of STL-10's labels", suffixes=(".bin",), advice=_STL10_ADVICE, largest=1 << 20)
def _read_stl10_labels(path: Path) -> NDArray[np.uint8]:
    return np.fromfile(path, dtype=np.uint8)


@reader("file of STL-10's images", suffixes=(".bin",), advice=_STL10_ADVICE, largest=1 << 32)
def _read_stl10_images(path: Path) -> Tensor:
    """uint8 (N, 3, 96, 96); the file keeps each colour plane column by column."""
    each = 3 * 96 * 96
    size = path.stat().st_size
    if size == 0 or size % each:
        raise Damage(f"it has {size} bytes, not a multiple of {each}")
    columns = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, 96, 96)
    images = np.empty(columns.shape, dtype=np.uint8)
    # In pieces: the whole unlabelled part is 2.8 GB, and should not be there twice.
    for low in range(0, len(images), 4096):
        images[low : low + 4096] = columns[low : low + 4096].transpose(0, 1, 3, 2)
    return torch.from_numpy(images)


def _download_stl10(request: Request, target: Path) -> None:
    from torchvision import datasets

    target.mkdir(exist_ok=True)
    datasets.STL10(str(target), split="train", download=True)


@register("tiny-imagenet")
def tiny_imagenet(request: Request) -> ImageDataset:
    """Tiny ImageNet: 200 classes, 100,000 train; its 10,000 validation images are "test" (the test labels are
    secret).

    The validation images may lie in one folder with ``val_annotations.txt`` or, as many rearrange them, in
    class folders.
    """
    card = request.card
    assert card is not None
    folder = request.find() / "tiny-imagenet-200"
    wnids = read_text(folder / "wnids.txt").split()
    number = {wnid: i for i, wnid in enumerate(sorted(wnids))}
    labels: list[int]
    if request.split == "train":
        paths, labels, _, notes = read_class_folders(folder / "train", sorted(wnids), corrupt=request.corrupt)
    else:
        paths, labels, notes = _tiny_imagenet_val(folder / "val", number)
    on_disk = ImageDataset(
        request.name,
        request.split,
        _tiny_imagenet_words(folder / "words.txt", sorted(wnids)),
        labels=torch.tensor(labels, dtype=torch.int64),
        paths=paths,
        image_size=64,
        mean=card.mean,
        std=card.std,
        notes=[*notes, *request.count_notes(len(paths))],
    )
    if not paths:
        raise UserError(f"{folder / request.split} holds no images; unpack tiny-imagenet-200.zip again")
    return to_memory(on_disk, 64, corrupt=request.corrupt)


def _tiny_imagenet_val(folder: Path, number: dict[str, int]) -> tuple[list[Path], list[int], list[str]]:
    if not (folder / "images").is_dir():
        paths, labels, _, notes = read_class_folders(folder, sorted(number))
        return paths, labels, notes
    annotations = folder / "val_annotations.txt"
    wnid_of: dict[str, str] = {}
    for line_number, line in enumerate(read_text(annotations).splitlines(), 1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in number:
            raise UserError(f"{annotations} line {line_number} names no image and class of Tiny ImageNet")
        wnid_of[cells[0]] = cells[1]
    paths = list_images(folder / "images")
    strangers = [path.name for path in paths if path.name not in wnid_of]
    if strangers:
        raise UserError(
            f"{annotations} does not mention {strangers[0]} and {len(strangers) - 1} other images"
        )
    return paths, [number[wnid_of[path.name]] for path in paths], []


def _tiny_imagenet_words(path: Path, wnids: list[str]) -> list[str]:
    """The first word for each class, or its WordNet number where there is no such file."""
    words: dict[str, str] = {}
    if path.exists():
        for line in read_text(path).splitlines():
            wnid, _, text = line.partition("\t")
            words[wnid] = text.split(",")[0].strip()
    return [words.get(wnid) or wnid for wnid in wnids]
