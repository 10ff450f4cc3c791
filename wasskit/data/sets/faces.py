"""The ORL faces (Samaria & Harter, 1994)."""

from __future__ import annotations

import typing

from wasskit.data.card import DatasetCard, Request, each_split, register

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "faces",
        "ORL faces, 40 people, class-disjoint",
        ("train", "test"),
        num_classes=40,
        image_size=112,
        channels=1,
        tasks=("metric",),
        files=("att_faces/s1/1.pgm",),
        source="the ORL database of AT&T Laboratories Cambridge",
        folders=("orl_faces", "faces", "orl"),
        mean=(0.45,),
        std=(0.2,),
        counts={"train": 200, "test": 200},
        class_counts={"train": 20, "test": 20},
        by_class=each_split,
    )
)
def faces(request: Request) -> ImageDataset:
    """The ORL faces (Samaria & Harter, 1994): 10 images each of 40 people, of whom 1-20 train and 21-40 test."""
    from wasskit.data.lists import listed

    folder = request.find() / "att_faces"
    people = range(1, 21) if request.split == "train" else range(21, 41)
    rows = [(f"s{person}/{image}.pgm", f"s{person:02d}") for person in people for image in range(1, 11)]
    return listed(request, folder, folder, rows)
