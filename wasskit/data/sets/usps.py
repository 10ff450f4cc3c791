"""USPS (Hull, 1994): digits on envelopes."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset

FILES = {"train": "usps.bz2", "test": "usps.t.bz2"}


@register(
    DatasetCard(
        "usps",
        "USPS, handwritten digits on envelopes, 16x16",
        ("train", "test"),
        num_classes=10,
        image_size=16,
        channels=1,
        files=tuple(FILES.values()),
        source="the LIBSVM data sets, https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        folders=("USPS",),
        downloadable=True,
        mean=(0.2483,),
        std=(0.2993,),
        counts={"train": 7_291, "test": 2_007},
    )
)
def usps(request: Request) -> ImageDataset:
    """The grey levels, which the files give in [-1, 1], are rounded to 8 bits."""
    from wasskit.data.formats.libsvm import read_libsvm

    values, labels = read_libsvm(request.obtain(_download) / FILES[request.split], 256)
    images = ((values + 1.0) * 127.5).round().clamp(0, 255).byte().view(-1, 1, 16, 16)
    names = [str(digit) for digit in range(10)]
    return request.dataset(classes=names, labels=labels, images=images, notes=request.count_notes(len(labels)))


def _download(request: Request, target: Path) -> None:
    from torchvision import datasets

    target.mkdir(exist_ok=True)
    for train in (True, False):
        datasets.USPS(str(target), train=train, download=True)
