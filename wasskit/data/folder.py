"""Images of the user's own: class folders, a flat folder, or a CSV of path,label."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from wasskit.data.base import BadImage, ImageDataset
from wasskit.data.decode import drop_bad_images, without_bad_images
from wasskit.data.images import IMAGE_SUFFIXES
from wasskit.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from wasskit.data.splits import stratified_split
from wasskit.errors import UserError
from wasskit.system.documents import read_csv_rows
from wasskit.text import short_text

SUFFIXES = frozenset(IMAGE_SUFFIXES)
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SPLIT_NAMES = {name: split for split, names in _SPLIT_FOLDERS.items() for name in names}
_HEADINGS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "labels", "class", "class_name", "target"),
    "split": ("split",),
}
_COLUMN_NAMES = {name: column for column, names in _HEADINGS.items() for name in names}


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, in the order of their paths, without hidden files (``._x.jpg`` among them).

    Links are followed; a file that several lead to counts once, under the first of its paths. Raises `UserError`
    for a link to a folder that holds the link.
    """
    return sorted(images_below(folder).values())


def images_below(folder: Path) -> dict[str, Path]:
    """As `list_images`, each under the path where it really lies; one of several paths is the first of them."""
    found: dict[str, Path] = {}
    top = os.path.realpath(folder)
    waiting = [(str(folder), top, _holders(top))]
    visited = set()
    while waiting:
        place, real, holders = waiting.pop()
        # Folders that several links lead to, level upon level, would have paths without end.
        if real in visited or not os.path.isdir(real):  # noqa: PTH112 (speed)
            continue
        visited.add(real)
        with os.scandir(place) as entries:
            ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        inner = []
        for entry in ordered:
            linked = entry.is_symlink()
            target = os.path.realpath(entry.path) if linked else os.path.join(real, entry.name)  # noqa: PTH118 (speed)
            # The entry itself fails on a link that leads to itself.
            if Path(target).is_dir() if linked else entry.is_dir():
                _refuse_cycle(entry.path, target, holders)
                inner.append((entry.path, target, holders | {target}))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 (speed)
                found.setdefault(target, Path(entry.path))
        waiting += reversed(inner)
    return found


def _holders(real: str) -> frozenset[str]:
    """A folder, given by the place where it really lies, and those that hold it."""
    return frozenset((real, *map(str, Path(real).parents)))


def _refuse_cycle(path: str, target: str, holders: frozenset[str]) -> None:
    if target in holders:
        raise UserError(f"{path} is a link to {target}, which holds it: remove the link")


def class_folders(folder: Path) -> list[Path]:
    """The subfolders that stand for classes, in the order of their names. Raises `UserError` for a link to a
    folder that holds it."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if Path(entry.path).is_dir() and not entry.name.startswith(".")]
    if any(entry.is_symlink() for entry in found):
        holders = _holders(os.path.realpath(folder))
        for entry in found:
            _refuse_cycle(entry.path, os.path.realpath(entry.path), holders)
    return sorted(Path(entry.path) for entry in found)


def read_class_folders(
    folder: Path, classes: Sequence[str] | None = None, *, corrupt: str = "refuse"
) -> tuple[list[Path], list[int], list[str], list[str]]:
    """``(paths, labels, classes, notes)`` of a folder of class folders.

    ``classes``: the names that labels refer to (default: the folder's own, sorted); a folder of another name
    is refused. An empty class folder is refused too, or left out with ``corrupt="skip"``.
    """
    own = class_folders(folder)
    if classes is not None:
        strangers = sorted({path.name for path in own} - set(classes))
        if strangers:
            raise UserError(f"{folder} has class folders that train has not: {', '.join(strangers[:5])}; remove them")
    members: dict[str, list[Path]] = {}
    places: dict[str, Path] = {}
    for own_folder in own:
        below = images_below(own_folder)
        if twice := places.keys() & below.keys():
            place = min(twice)
            raise UserError(
                f"{places[place]} and {below[place]} are one image in two classes, by a link: remove one of them"
            )
        places |= below
        members[own_folder.name] = sorted(below.values())
    places.clear()
    empty = [name for name, images in members.items() if not images]
    notes: list[str] = []
    if empty and classes is None:
        if corrupt == "refuse":
            raise UserError(
                f"the class folders {', '.join(empty[:5])} of {folder} hold no image ({_suffixes()}); "
                "remove them, or pass --corrupt skip to leave them out"
            )
        notes.append(f"{len(empty)} empty class folders of {folder} left out")
    loose = sum(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.iterdir())
    if loose:
        notes.append(f"{loose} images of {folder} lie in no class folder and are not used")
    names = list(classes) if classes is not None else [name for name, images in members.items() if images]
    number = {name: i for i, name in enumerate(names)}
    paths = [path for name, images in members.items() if name in number for path in images]
    labels = [number[name] for name, images in members.items() if name in number for _ in images]
    return paths, labels, names, notes


def load_folder(
    path: str | Path,
    split: str = "all",
    *,
    corrupt: str = "refuse",
    image_size: int = 224,
    channels: int = 3,
    name: str = "imagefolder",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    scan: bool | None = None,
) -> ImageDataset:
    """The images of a folder or of a CSV file.

    * A folder with a subfolder ``train`` (and ``val``/``valid``/``validation``, ``test``): those are the
      splits; where there is no ``test``, the validation part is it.
    * A folder of class folders: "all", or a fixed stratified "train" (80 %) and "test" (20 %).
    * A folder of images: unlabelled, "all" or "train".
    * A CSV file, or a folder that holds ``images.csv`` or ``labels.csv``: columns path, label and, if wanted,
      split (train, val, test), in that order or as a heading names them; paths relative to the file. Without
      the split column it is divided like class folders. An image that several rows name counts once.

    ``scan``: see `wasskit.data.decode.without_bad_images`. Raises `UserError` for whatever is not there.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no folder or CSV file {path}; name one that is there")
    table = _table_of(path)
    found = _in_folder(path, split, corrupt) if table is None else _in_table(table, split)
    dataset = ImageDataset(
        name,
        split,
        found.classes,
        labels=None if found.labels is None else torch.tensor(found.labels, dtype=torch.int64),
        paths=found.paths,
        image_size=image_size,
        channels=channels,
        mean=mean,
        std=std,
        notes=found.notes,
    )
    if found.divide and split != "all":
        dataset = _divided(dataset, split, path)
    if table is not None:
        dataset = _without_missing(dataset, corrupt)
    return without_bad_images(dataset, corrupt, scan=scan)


def folder_splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder or a CSV file, as `load_folder` gives them, without those that share their images."""
    table = _table_of(path)
    if table is not None:
        listed = read_csv(table)
        if listed.splits is not None:
            return tuple(split for split in _SPLIT_FOLDERS if split in listed.splits)
        return ("train",) if listed.labels is None else ("train", "test")
    here = tuple(split for split, names in _SPLIT_FOLDERS.items() if any((path / name).is_dir() for name in names))
    if "train" in here:
        return here
    return ("train", "test") if class_folders(path) else ("train",)


def _table_of(path: Path) -> Path | None:
    """The CSV file that lists the images of a folder, or is named in its place."""
    return path if path.is_file() else next((p for p in (path / "images.csv", path / "labels.csv") if p.exists()), None)


class _Found(NamedTuple):
    """The images of a split; with ``divide`` those of all splits, which are still to be divided."""

    paths: list[Path]
    labels: list[int] | None
    classes: list[str]
    divide: bool
    notes: list[str]


def _in_table(table: Path, split: str) -> _Found:
    if table.suffix.lower() != ".csv":
        raise UserError(f"{table} is neither a folder nor a CSV file of path,label")
    paths, labels, classes, split_of, repeats = read_csv(table)
    notes = []
    if repeats:
        notes.append(f"{repeats:,} rows of {table} name an image that an earlier row names; it counts once")
    if split_of is not None and split != "all":
        index = [i for i, part in enumerate(split_of) if part == split]
        if not index:
            raise UserError(f"{table} has no row of the split {split!r}: {', '.join(sorted(set(split_of)))}")
        paths = [paths[i] for i in index]
        labels = None if labels is None else [labels[i] for i in index]
    return _Found(paths, labels, classes, split_of is None, notes)


def _in_folder(path: Path, split: str, corrupt: str) -> _Found:
    folder, classes_from, divide = _split_folder(path, split)
    named: list[str] | None = None
    if classes_from is not None:
        if any(list_images(p) for p in class_folders(classes_from)):
            named = read_class_folders(classes_from, corrupt=corrupt)[2]
        if twice := images_below(folder).keys() & images_below(classes_from).keys():
            raise UserError(
                f"{len(twice):,} images of {folder} are those of {classes_from}, by links ({min(twice)}): what is "
                "trained on cannot be tested on; remove the links"
            )
    if class_folders(folder):
        paths, labels, classes, notes = read_class_folders(folder, named, corrupt=corrupt)
        found = _Found(paths, labels, classes, divide, notes)
    else:
        found = _Found(list_images(folder), None, [], divide, [])
    if not found.paths:
        raise UserError(f"{folder} holds no image ({_suffixes()}), neither in itself nor in class folders")
    return found


def _split_folder(path: Path, split: str) -> tuple[Path, Path | None, bool]:
    """The folder of a split, the folder whose classes it shares, and whether it has yet to be divided."""
    here = {part: path / name for part, names in _SPLIT_FOLDERS.items() for name in names if (path / name).is_dir()}
    if "train" not in here:
        return path, None, True
    if "test" not in here and "val" in here:
        here["test"] = here["val"]
    if split == "all":
        return here["train"], None, False
    if split not in here:
        raise UserError(f"{path} has no folder for the split {split!r}; it has {', '.join(sorted(here))}")
    return here[split], here["train"] if split != "train" else None, False


def _divided(dataset: ImageDataset, split: str, path: Path) -> ImageDataset:
    if dataset.labels is None:
        if split == "train":
            return dataset
        raise UserError(f"{path} holds images without labels and has no part {split!r}; only train and all")
    if split not in ("train", "test"):
        raise UserError(f"{path} has no part {split!r}; a part of train can serve (--validation 0.1)")
    train, test = stratified_split(dataset.labels, 0.2)
    part = dataset.subset(train if split == "train" else test)
    note = f"{path} has no test part: a fixed fifth of each class is taken as one"
    return replace(part, notes=(*dataset.notes, note))


def _columns(file: Path, heading: list[str]) -> list[str] | None:
    """What each column holds, "" for something else; None where the first line is not a heading."""
    # A label may be called "image", so a line that names an image file is not a heading.
    if all(_COLUMN_NAMES.get(cell) != "path" for cell in heading) or any(
        Path(cell).suffix in SUFFIXES for cell in heading
    ):
        return None
    columns = [_COLUMN_NAMES.get(cell, "") for cell in heading]
    shown = short_text(", ".join(heading))
    twice = [name for name in _HEADINGS if columns.count(name) > 1]
    if twice:
        raise UserError(f"{file} has more than one column for the {twice[0]}: {shown}")
    if len(columns) > 1 and "label" not in columns and "split" not in columns:
        raise UserError(f"{file} has the columns {shown}, none of them for labels; name it label")
    return columns


class ListedImages(NamedTuple):
    """The images of a CSV file, each once, their labels (numbers of ``classes``, -1 for none) and splits, where there
    are such columns; ``repeats``: how many rows name an image that an earlier one names.
    """

    paths: list[Path]
    labels: list[int] | None
    classes: list[str]
    splits: list[str] | None
    repeats: int


def read_csv(file: Path) -> ListedImages:
    """The images that a CSV file of path[,label[,split]] lists.

    Of rows that name the same image the first counts, so that no image is in both the training and the test part.
    Raises `UserError` where they contradict each other.
    """
    rows = read_csv_rows(file)
    heading = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    columns = _columns(file, heading)
    if columns is None:
        columns = ["path", "label", "split"]
    else:
        rows = rows[1:]
    if not rows:
        raise UserError(f"{file} has no rows; it should list one image per line, path,label")
    width = len(rows[0][1])
    separator = next((mark for mark in ";\t" if mark in "".join(heading)), None)
    if width == 1 and separator is not None:
        raise UserError(
            f"the columns of {file} are separated by {separator!r}; it should be a CSV with commas, path,label"
        )
    where = columns.index("path")
    for number, row in rows:
        if len(row) != width:
            raise UserError(f"{file} line {number} has {len(row)} columns, the first {width}; it should be path,label")
        if where >= width or not row[where].strip():
            raise UserError(f"{file} line {number} names no image; it should be path,label")

    def column(name: str) -> list[str] | None:
        place = columns.index(name) if name in columns else width
        return [row[place].strip() for _, row in rows] if place < width else None

    facts: dict[str, tuple[int, list[str]]] = {}
    once = []
    for number, row in rows:
        rest = [cell.strip() for cell, name in zip(row, columns, strict=False) if name in ("label", "split")]
        first, before = facts.setdefault(os.path.normpath(file.parent / row[where].strip()), (number, rest))
        if rest != before:
            raise UserError(
                f"{file} lines {first} and {number} name the same image with different labels or splits; "
                "keep one of them"
            )
        if first == number:
            once.append((number, row))
    repeats, rows = len(rows) - len(once), once
    paths = [file.parent / row[where].strip() for _, row in rows]
    given = column("label")
    splits = column("split")
    if splits is not None:
        unknown = sorted({part for part in splits if part.lower() not in _SPLIT_NAMES})
        if unknown:
            raise UserError(f"{file} names the unknown split {unknown[0][:80]!r}; there are train, val and test")
        splits = [_SPLIT_NAMES[part.lower()] for part in splits]
    if given is None or not any(given):
        return ListedImages(paths, None, [], splits, repeats)
    classes = _sorted_names(set(given) - {""})
    number_of = {name: i for i, name in enumerate(classes)}
    return ListedImages(paths, [number_of.get(name, -1) for name in given], classes, splits, repeats)


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Numbers by their value, anything else by the alphabet."""
    names = sorted(names)
    try:
        values = {name: float(name) for name in names}
    except ValueError:
        return names
    return sorted(names, key=values.__getitem__) if all(map(math.isfinite, values.values())) else names


def _without_missing(dataset: ImageDataset, corrupt: str) -> ImageDataset:
    assert dataset.paths is not None
    missing = {i: BadImage(str(p), "no such file") for i, p in enumerate(dataset.paths) if not p.is_file()}
    return drop_bad_images(dataset, missing, corrupt)


def _suffixes() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
