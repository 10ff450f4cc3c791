"""Stanford Online Products (Oh Song et al., CVPR 2016)."""

from __future__ import annotations

import typing

from wasskit.data.card import DatasetCard, Request, each_split, register

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "sop",
        "Stanford Online Products, class-disjoint (11,318 / 11,316)",
        ("train", "test"),
        num_classes=22_634,
        image_size=224,
        channels=3,
        tasks=("metric",),
        files=("Stanford_Online_Products/Ebay_train.txt", "Stanford_Online_Products/Ebay_test.txt"),
        source="https://cvgl.stanford.edu/projects/lifted_struct/ (Stanford_Online_Products.zip, unpack it)",
        folders=("sop", "SOP", "online_products"),
        counts={"train": 59_551, "test": 60_502},
        class_counts={"train": 11_318, "test": 11_316},
        by_class=each_split,
    )
)
def sop(request: Request) -> ImageDataset:
    """Stanford Online Products (Oh Song et al., CVPR 2016): the two lists are the split."""
    from wasskit.data.lists import as_numbers, listed, read_rows

    folder = request.find() / "Stanford_Online_Products"
    file = folder / f"Ebay_{request.split}.txt"
    rows = read_rows(file, 4, skip=1)  # image_id class_id super_class_id path
    width = len(str(max(as_numbers(file, rows, 1), default=0)))
    return listed(request, file, folder, [(path, name.zfill(width)) for _, name, _, path in rows])
