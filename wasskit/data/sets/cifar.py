"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the original Python pickles, whole or in part."""

from __future__ import annotations

import hashlib
import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wasskit.data.base import ImageDataset

PUBLISHED_MD5 = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
"""The sums of the published files. Subsets and copies pickled anew have others, though they may be as good."""


def read_batch(path: Path, label_key: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one file."""
    import numpy as np

    from wasskit.data.formats.pickles import read_pickle

    content = read_pickle(path)
    data, labels = content.get("data"), content.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path} has no images: its 'data' should be N x 3072 bytes; get the data set again")
    # One number each, and none of a list of lists that names itself again and again.
    plain = isinstance(labels, list) and all(type(label) is int and 0 <= label < classes for label in labels)
    target = labels.astype(np.int64) if isinstance(labels, np.ndarray) else np.array(labels if plain else [], np.int64)
    if target.shape != (len(data),) or (len(target) and not (target.min() >= 0 and target.max() < classes)):
        raise UserError(f"{path} has {len(data)} images but its {label_key!r} do not fit them; get the data set again")
    return data.reshape(-1, 3, 32, 32), target


def _load(request: Request, folder: str, files: list[str], label_key: str, meta: str, names: str) -> ImageDataset:
    import numpy as np
    import torch

    from wasskit.data.formats.pickles import read_pickle

    card = request.card
    base = request.obtain(_download)
    named = read_pickle(base / folder / meta).get(names)
    classes = [
        name.decode("latin1") if isinstance(name, bytes) else name
        for name in (named if isinstance(named, list) else [])
        if isinstance(name, str | bytes)
    ]
    if len(classes) != card.num_classes:
        raise UserError(
            f"{base / folder / meta} should name {card.num_classes} classes, not {len(classes)}; get the data set again"
        )
    parts = [read_batch(base / folder / file, label_key, len(classes)) for file in files]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    notes = request.count_notes(len(labels)) or _altered(base, [f"{folder}/{file}" for file in files])
    return request.dataset(
        classes=classes, labels=torch.from_numpy(labels), images=torch.from_numpy(images), notes=notes
    )


def _altered(base: Path, files: list[str]) -> list[str]:
    """A note that names the files of a whole set which are not the published ones: a flipped bit
    spoils images silently."""
    other = [
        file
        for file in files
        if hashlib.md5((base / file).read_bytes(), usedforsecurity=False).hexdigest() != PUBLISHED_MD5[file]
    ]
    if not other:
        return []
    return [f"not the published file by its md5 sum: {', '.join(str(base / file) for file in other)}"]


def _download(request: Request, target: Path) -> None:
    from torchvision import datasets

    {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.name](str(target), download=True)


@register(
    DatasetCard(
        "cifar10",
        "CIFAR-10, 32x32 colour",
        ("train", "test"),
        num_classes=10,
        image_size=32,
        channels=3,
        tasks=("classification", "ssl"),
        files=(
            *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
            "cifar-10-batches-py/test_batch",
            "cifar-10-batches-py/batches.meta",
        ),
        source="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (unpack it)",
        folders=("cifar10", "CIFAR10", "cifar-10"),
        downloadable=True,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        counts={"train": 50_000, "test": 10_000},
    )
)
def cifar10(request: Request) -> ImageDataset:
    """CIFAR-10; a subset in the original format is taken as it is and its count noted."""
    files = [f"data_batch_{i}" for i in range(1, 6)] if request.split == "train" else ["test_batch"]
    return _load(request, "cifar-10-batches-py", files, "labels", "batches.meta", "label_names")


@register(
    DatasetCard(
        "cifar100",
        "CIFAR-100 (fine labels), 32x32 colour",
        ("train", "test"),
        num_classes=100,
        image_size=32,
        channels=3,
        tasks=("classification", "ssl"),
        files=("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
        source="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz (unpack it)",
        folders=("cifar100", "CIFAR100", "cifar-100"),
        downloadable=True,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        counts={"train": 50_000, "test": 10_000},
    )
)
def cifar100(request: Request) -> ImageDataset:
    """CIFAR-100 with its fine labels."""
    return _load(request, "cifar-100-python", [request.split], "fine_labels", "meta", "fine_label_names")
