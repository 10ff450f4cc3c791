"""Tiny ImageNet (Le & Yang, 2015)."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError
from wasskit.system.documents import read_text

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "tiny-imagenet",
        "Tiny ImageNet, 64x64 colour (test: its 10,000 validation images)",
        ("train", "test"),
        num_classes=200,
        image_size=64,
        channels=3,
        tasks=("classification", "ssl"),
        files=("tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/train", "tiny-imagenet-200/val/val_annotations.txt"),
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip (unpack it)",
        folders=("tiny-imagenet", "tiny_imagenet", "TinyImageNet"),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        counts={"train": 100_000, "test": 10_000},
    )
)
def tiny_imagenet(request: Request) -> ImageDataset:
    """Tiny ImageNet: 200 classes, 100,000 train; its 10,000 validation images are "test" (the test labels are secret).

    The validation images may lie in one folder with ``val_annotations.txt`` or, as many rearrange them,
    in class folders.
    """
    import torch

    from wasskit.data.decode import to_memory
    from wasskit.data.folder import read_class_folders

    folder = request.find() / "tiny-imagenet-200"
    wnids = sorted(read_text(folder / "wnids.txt").split())
    labels: list[int]
    if request.split == "train":
        paths, labels, _, notes = read_class_folders(folder / "train", wnids, corrupt=request.corrupt)
    else:
        paths, labels, notes = _validation(folder / "val", {wnid: i for i, wnid in enumerate(wnids)})
    if not paths:
        raise UserError(f"{folder / request.split} holds no images; unpack tiny-imagenet-200.zip again")
    on_disk = request.dataset(
        classes=_words(folder / "words.txt", wnids),
        labels=torch.tensor(labels, dtype=torch.int64),
        paths=paths,
        notes=[*notes, *request.count_notes(len(paths))],
    )
    return to_memory(on_disk, corrupt=request.corrupt)


def _validation(folder: Path, number: dict[str, int]) -> tuple[list[Path], list[int], list[str]]:
    from wasskit.data.folder import list_images, read_class_folders

    if not (folder / "images").is_dir():
        paths, labels, _, notes = read_class_folders(folder, sorted(number))
        return paths, labels, notes
    annotations = folder / "val_annotations.txt"
    wnid_of: dict[str, str] = {}
    for line_number, line in enumerate(read_text(annotations).splitlines(), 1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in number:
            raise UserError(f"{annotations} line {line_number} names no image and class of Tiny ImageNet")
        wnid_of[cells[0]] = cells[1]
    paths = list_images(folder / "images")
    strangers = [path.name for path in paths if path.name not in wnid_of]
    if strangers:
        raise UserError(f"{annotations} does not mention {strangers[0]} and {len(strangers) - 1} other images")
    return paths, [number[wnid_of[path.name]] for path in paths], []


def _words(path: Path, wnids: list[str]) -> list[str]:
    """The first word for each class, or its WordNet number where there is no such file."""
    words: dict[str, str] = {}
    if path.exists():
        for line in read_text(path).splitlines():
            wnid, _, text = line.partition("\t")
            words[wnid] = text.split(",")[0].strip()
    return [words.get(wnid) or wnid for wnid in wnids]
