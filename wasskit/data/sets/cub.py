"""Caltech-UCSD Birds-200-2011 (Wah et al., 2011)."""

from __future__ import annotations

import typing

from wasskit.data.card import DatasetCard, Request, each_split, register

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "cub",
        "CUB-200-2011 birds, class-disjoint (100 / 100)",
        ("train", "test"),
        num_classes=200,
        image_size=224,
        channels=3,
        tasks=("metric",),
        files=("CUB_200_2011/images.txt", "CUB_200_2011/images"),
        source="https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz, unpack it)",
        folders=("cub", "cub200", "CUB", "cub200_subset"),
        counts={"train": 5_864, "test": 5_924},
        class_counts={"train": 100, "test": 100},
        by_class=each_split,
    )
)
def cub(request: Request) -> ImageDataset:
    """Caltech-UCSD Birds-200-2011: classes 1-100 train, 101-200 test (Oh Song et al., CVPR 2016)."""
    from wasskit.data.lists import as_numbers, listed, read_rows

    folder = request.find() / "CUB_200_2011"
    file = folder / "images.txt"
    # The class number opens the name of an image's folder, 001.Black_footed_Albatross.
    paths = [path for _, path in read_rows(file, 2)]
    rows = [(path, path.partition("/")[0]) for path in paths]
    numbers = as_numbers(file, [[name.partition(".")[0]] for _, name in rows], 0)
    train = request.split == "train"
    chosen = [row for row, number in zip(rows, numbers, strict=True) if (number <= 100) == train]
    return listed(request, file, folder / "images", chosen, subset=True)
