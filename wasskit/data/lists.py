"""Sets on disk whose images are those of a published list, never what else lies in the folders.

``._`` files and thumbnails are none of them. A list whose numbers are not the published ones is refused with its path.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from wasskit.data.base import BadImage, ImageDataset
from wasskit.data.card import Request
from wasskit.data.decode import bad_images_message, drop_bad_images, without_bad_images
from wasskit.errors import UserError
from wasskit.system.documents import read_text


def listed(
    request: Request,
    source: Path,
    base: Path,
    images: Sequence[tuple[str, str]],
    *,
    subset: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageDataset:
    """A data set of (path below ``base``, class) pairs listed in ``source``, after checking that they are right.

    ``classes``: the names that labels number (default: those that occur, sorted). ``subset``: fewer classes
    than published are a subset, not an error.
    """
    card, split = request.card, request.split
    names = sorted({name for _, name in images})
    expected = card.counts[split], card.class_counts[split]
    notes = []
    if (len(images), len(names)) != expected:
        found = f"{len(images):,} {split} images of {len(names):,} classes"
        published = f"{expected[0]:,} of {expected[1]:,}"
        if not subset or not 0 < len(names) < expected[1]:
            raise UserError(f"{source} lists {found}, but {card.name} has {published}; get it anew")
        notes.append(f"{found}: a subset, the whole set has {published}")
    numbering = {name: i for i, name in enumerate(classes or names)}
    dataset = request.dataset(
        classes=tuple(numbering),
        labels=torch.tensor([numbering[name] for _, name in images]),
        paths=[base / path for path, _ in images],
        notes=notes,
    )
    missing = _missing(base, [path for path, _ in images])
    if missing and request.corrupt == "refuse":
        raise UserError(f"{source} names files that are not there: {bad_images_message(missing, len(images))}")
    places = {str(base / path): i for i, (path, _) in enumerate(images)} if missing else {}
    dataset = drop_bad_images(dataset, {places[bad.path]: bad for bad in missing}, request.corrupt)
    return without_bad_images(dataset, request.corrupt)


def _missing(base: Path, paths: Sequence[str]) -> list[BadImage]:
    """The files that are not below ``base``; one look into each folder, not at each of a hundred thousand files."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, _, file = path.rpartition("/")
        folders[folder].append(file)
    missing = []
    for folder, files in folders.items():
        place = base / folder
        present = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
        missing += [BadImage(str(place / file), "no such file") for file in files if file not in present]
    return missing


def read_rows(file: Path, columns: int, *, skip: int = 0) -> list[list[str]]:
    """The whitespace-separated rows of a list file, each checked to have ``columns`` entries."""
    rows = [line.split() for line in read_text(file).splitlines()[skip:] if line.strip()]
    for number, row in enumerate(rows, skip + 1):
        if len(row) != columns:
            raise UserError(f"{file} line {number} has {len(row)} entries in place of {columns}; get it anew")
    return rows


def as_numbers(file: Path, rows: Sequence[Sequence[str]], column: int) -> list[int]:
    try:
        return [int(row[column]) for row in rows]
    except ValueError as error:
        raise UserError(f"{file} should have numbers in column {column + 1}: {error}; get it anew") from error
