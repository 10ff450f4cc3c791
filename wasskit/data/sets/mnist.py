"""MNIST (LeCun, Cortes & Burges, 1998) and Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017), from their idx files."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

    from wasskit.data.base import ImageDataset

PARTS = {"train": "train", "test": "t10k"}
FILES = tuple(f"{part}-{kind}-ubyte" for part in PARTS.values() for kind in ("images-idx3", "labels-idx1"))
FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@register(
    DatasetCard(
        "mnist",
        "MNIST, handwritten digits, 28x28",
        ("train", "test"),
        num_classes=10,
        image_size=28,
        channels=1,
        files=tuple(f"MNIST/raw/{file}.gz" for file in FILES),
        # Packed or not, in torchvision's folders or in one.
        alternatives=tuple(tuple(f"{folder}{file}*" for file in FILES) for folder in ("MNIST/raw/", "")),
        source="https://ossci-datasets.s3.amazonaws.com/mnist/ (four files)",
        folders=("MNIST",),
        downloadable=True,
        mean=(0.1307,),
        std=(0.3081,),
        counts={"train": 60_000, "test": 10_000},
    )
)
def mnist(request: Request) -> ImageDataset:
    """MNIST; a subset in the original format is taken as it is and its count noted."""
    return _load(request, "MNIST", [str(digit) for digit in range(10)])


@register(
    DatasetCard(
        "fashion-mnist",
        "Fashion-MNIST, articles of clothing, 28x28",
        ("train", "test"),
        num_classes=10,
        image_size=28,
        channels=1,
        files=tuple(f"FashionMNIST/raw/{file}.gz" for file in FILES),
        # Its files are called as those of MNIST are, so that only their folder tells which they are.
        alternatives=tuple(
            tuple(f"{folder}/{file}*" for file in FILES)
            for folder in ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "data/fashion")
        ),
        source="https://github.com/zalandoresearch/fashion-mnist (four files, into a folder fashion-mnist)",
        folders=("FashionMNIST",),
        downloadable=True,
        mean=(0.2860,),
        std=(0.3530,),
        counts={"train": 60_000, "test": 10_000},
    )
)
def fashion_mnist(request: Request) -> ImageDataset:
    """Fashion-MNIST, in the files of MNIST."""
    return _load(request, "FashionMNIST", FASHION)


def _load(request: Request, name: str, classes: typing.Sequence[str]) -> ImageDataset:
    import numpy as np
    import torch

    from wasskit.data.formats.idx import read_idx

    def download(request: Request, target: Path) -> None:
        from torchvision import datasets

        getattr(datasets, name)(str(target), download=True)

    base, part = request.obtain(download), PARTS[request.split]
    layouts = (request.card.files, *request.card.alternatives)
    folders = [base / files[0].rpartition("/")[0] for files in layouts]

    def read(file: str) -> NDArray[np.uint8]:
        places = [folder / f"{file}{end}" for folder in folders for end in ("", ".gz")]
        return read_idx(min(places, key=lambda place: (not place.is_file(), not place.exists())))

    images, labels = read(f"{part}-images-idx3-ubyte"), read(f"{part}-labels-idx1-ubyte")
    fits = images.ndim == 3 and images.shape[1:] == (28, 28) and labels.shape == images.shape[:1]
    if not fits or not len(labels) or labels.max() > 9:
        raise UserError(
            f"the {request.split} files of {request.name} in {base} do not fit together: images {images.shape}, labels "
            f"{labels.shape}, where N images of 28 x 28 and N labels from 0 to 9 are expected; get them again"
        )
    return request.dataset(
        classes=classes,
        labels=torch.from_numpy(labels.astype(np.int64)),
        images=torch.from_numpy(images).unsqueeze(1),
        notes=request.count_notes(len(labels)),
    )
