"""In-Shop Clothes Retrieval of DeepFashion (Liu et al., CVPR 2016)."""

from __future__ import annotations

import typing

from wasskit.data.card import DatasetCard, Request, each_split, register
from wasskit.errors import UserError
from wasskit.system.documents import read_text

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "inshop",
        "In-Shop clothes retrieval of DeepFashion (query and gallery)",
        ("train", "query", "gallery"),
        num_classes=7_982,
        image_size=224,
        channels=3,
        tasks=("metric",),
        files=("list_eval_partition.txt",),
        alternatives=(("Eval/list_eval_partition.txt",),),
        source="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        folders=("inshop", "InShop_Clothes", "In-shop Clothes Retrieval Benchmark", "In-shop", "In_shop", "InShop"),
        counts={"train": 25_882, "query": 14_218, "gallery": 12_612},
        class_counts={"train": 3_997, "query": 3_985, "gallery": 3_985},
        by_class=each_split,
    )
)
def inshop(request: Request) -> ImageDataset:
    """In-Shop Clothes Retrieval of DeepFashion (Liu et al., CVPR 2016): train, query and gallery of one list."""
    from wasskit.data.lists import listed, read_rows

    base = request.find()
    file = next(p for p in (base / "list_eval_partition.txt", base / "Eval/list_eval_partition.txt") if p.exists())
    rows = read_rows(file, 3, skip=2)  # image_name item_id evaluation_status, below the number of rows
    announced = read_text(file).partition("\n")[0].strip()
    if announced != str(len(rows)):
        raise UserError(f"{file} announces {announced!r} images and lists {len(rows)}; get it anew")
    images = next((p for p in (base, base / "Img", base / "img_highres") if (p / "img").is_dir()), base)
    chosen = [(path, item) for path, item, status in rows if status == request.split]
    # Queries and gallery must number the same items.
    tested = sorted({item for _, item, status in rows if status in ("query", "gallery")})
    return listed(request, file, images, chosen, classes=None if request.split == "train" else tested)
