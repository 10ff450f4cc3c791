"""Images that `wasskit data pack` has decoded and resized once."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.data.formats.pack import SUFFIX, Pack, read_pack
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset

SPLITS = ("train", "val", "test", "query", "gallery", "all")


def _look(root: Path) -> Path | str:
    for folder in (root, root / "packed"):
        if any((folder / f"{split}{SUFFIX}").is_file() for split in SPLITS):
            return folder
    return "a folder made by `wasskit data pack`, named by --data-root"


def _dataset(request: Request, split: str, packs: list[Pack]) -> ImageDataset:
    import torch

    from wasskit.data.base import ImageDataset
    from wasskit.data.packed import PackedImages

    first = packs[0].header
    for pack in packs:
        if any(getattr(pack.header, name) != getattr(first, name) for name in ("classes", "channels", "side")):
            raise UserError(f"{packs[0].path} and {pack.path} differ in their classes or in the size of their images")
    labels = torch.cat([torch.from_numpy(pack.labels) for pack in packs])
    return ImageDataset(
        request.name,
        split,
        first.classes,
        labels=labels if any(pack.header.labelled for pack in packs) else None,
        packed=PackedImages(packs),
        image_size=first.image_size,
        mean=first.mean,
        std=first.std,
        notes=tuple(note for pack in packs for note in pack.header.notes),
    )


def _packs(request: Request) -> Mapping[str, Pack]:
    folder = _look(request.root)
    if isinstance(folder, str):
        raise UserError(
            f"there is no pack in {request.root}: make one by `wasskit data pack SOURCE {request.root}`, or name the "
            "folder of one by --data-root"
        )
    return {split: read_pack(path) for split in SPLITS if (path := folder / f"{split}{SUFFIX}").is_file()}


def _by_class(request: Request) -> dict[str, ImageDataset]:
    """The splits, where their classes differ."""
    found = _packs(request)
    parts = {split: _dataset(request, split, [pack]) for split, pack in found.items() if split != "val"}
    names = [set(part.classes) for part in parts.values()]
    if "train" not in parts or len(parts) < 2 or names[0] & names[1]:
        return {}
    return parts


@register(
    DatasetCard(
        "packed",
        "images that `wasskit data pack` has decoded and resized once, of any set on disk",
        SPLITS,
        num_classes=None,
        image_size=224,
        channels=3,
        files=(f"train{SUFFIX}",),
        source="make it by `wasskit data pack SOURCE FOLDER`, and name the folder by --data-root",
        look=_look,
        by_class=_by_class,
    )
)
def packed(request: Request) -> ImageDataset:
    """The split of a folder of packs. "test" is "val" where there is no test, as of folders of images; "all" is the
    images of all splits."""
    found = _packs(request)
    split = request.split
    if split == "all" and "all" not in found:
        return _dataset(request, split, list(found.values()))
    if split == "test" and "test" not in found and "val" in found:
        split = "val"
    if split not in found:
        raise UserError(
            f"{_look(request.root)} holds no pack of the split {split!r}: it has {', '.join(found)}; pack that split "
            "as well"
        )
    return _dataset(request, request.split, [found[split]])
