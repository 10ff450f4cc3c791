"""Sets that need no files: scikit-learn's digits, and generated images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wasskit.data.base import ImageDataset
from wasskit.data.catalog import CARDS
from wasskit.data.registry import Request, register
from wasskit.data.seeds import derive_seed
from wasskit.data.splits import stratified_split
from wasskit.errors import UserError


@register("digits")
def digits(request: Request) -> ImageDataset:
    """1,797 handwritten digits, 8x8: 1,259 train, 179 val, 359 test, stratified, the same split for every
    seed.

    The grey levels 0..16 become 0..255.
    """
    table = _digits_table()
    images = torch.from_numpy(np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, 64].astype(np.int64))
    train, test = stratified_split(labels, 0.2, seed=0)
    rest, val = stratified_split(labels[train], 0.125, seed=1)
    index = {"train": train[rest], "val": train[val], "test": test}[request.split]
    card = CARDS["digits"]
    names = [str(digit) for digit in range(10)]
    return ImageDataset(
        "digits",
        request.split,
        names,
        labels=labels[index],
        images=images[index],
        mean=card.mean,
        std=card.std,
    )


def _digits_table() -> np.ndarray[Any, np.dtype[np.float64]]:
    """1,797 rows: 64 grey levels and the digit."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise UserError(
            "the data set digits comes with scikit-learn, which is not installed: pip install scikit-learn"
        )
    for folder in spec.submodule_search_locations or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    # Its place is not promised; importing scikit-learn, which takes seconds, finds it in any case.
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target]).astype(np.float64)


@register("fake")
def fake(request: Request) -> ImageDataset:
    """Noise with a tint per class, 32x32 colour; a pure function of the seed and the split."""
    card = CARDS["fake"]
    count = card.counts[request.split]
    classes = card.num_classes or 1
    tint = torch.randint(64, 192, (classes, 3, 1, 1), generator=_generator(request.seed, "tint"))
    labels = torch.arange(count) % classes
    noise = torch.randint(-63, 64, (count, 3, 32, 32), generator=_generator(request.seed, request.split))
    names = [f"tint {c}" for c in range(classes)]
    images = (tint[labels] + noise).to(torch.uint8)
    return ImageDataset(
        "fake", request.split, names, labels=labels, images=images, mean=card.mean, std=card.std
    )


def _generator(seed: int, part: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "fake", part))
