"""STL-10 (Coates, Ng & Lee, 2011)."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError
from wasskit.system.documents import read_text
from wasskit.system.readers import Damage, reader

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from wasskit.data.base import ImageDataset

ADVICE = "unpack stl10_binary.tar.gz again"


@register(
    DatasetCard(
        "stl10",
        "STL-10, 96x96 colour, with 100,000 unlabelled images",
        ("train", "test", "unlabelled", "train+unlabelled"),
        num_classes=10,
        image_size=96,
        channels=3,
        tasks=("classification", "ssl"),
        files=tuple(f"stl10_binary/{part}_{kind}.bin" for part in ("train", "test") for kind in "Xy"),
        source="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz (unpack it)",
        folders=("stl10", "STL10", "stl-10"),
        downloadable=True,
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        counts={"train": 5_000, "test": 8_000, "unlabelled": 100_000, "train+unlabelled": 105_000},
    )
)
def stl10(request: Request) -> ImageDataset:
    """STL-10: "train" 5,000, "test" 8,000, "unlabelled" 100,000, "train+unlabelled"."""
    import numpy as np
    import torch

    base = request.obtain(_download)
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
            raise UserError(f"{folder / stem}_y.bin does not fit the {len(images[-1])} images of {stem}_X.bin")
        labels.append(torch.from_numpy(target))
    count = sum(len(part) for part in images)
    return request.dataset(
        classes=classes,
        labels=None if request.split == "unlabelled" else torch.cat(labels),
        images=images[0] if len(images) == 1 else torch.cat(images),
        notes=request.count_notes(count),
    )


@reader("file of STL-10's labels", suffixes=(".bin",), advice=ADVICE, largest=1 << 20)
def _read_stl10_labels(path: Path) -> NDArray[np.uint8]:
    import numpy as np

    return np.fromfile(path, dtype=np.uint8)


@reader("file of STL-10's images", suffixes=(".bin",), advice=ADVICE, largest=1 << 32)
def _read_stl10_images(path: Path) -> Tensor:
    """uint8 (N, 3, 96, 96); the file keeps each colour plane column by column."""
    import numpy as np
    import torch

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


def _download(request: Request, target: Path) -> None:
    from torchvision import datasets

    target.mkdir(exist_ok=True)
    datasets.STL10(str(target), split="train", download=True)
