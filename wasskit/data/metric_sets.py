"""Data sets of metric learning, in their original layouts: the test classes are none of the training classes.

===========  ==============================================  =======================  ======================
set          files                                           train images / classes   test images / classes
===========  ==============================================  =======================  ======================
``cub``      CUB_200_2011/images.txt, .../images             5,864 / 100              5,924 / 100
``cars``     cars_annos.mat, car_ims; or the newer devkit    8,054 / 98               8,131 / 98
             with cars_train and cars_test
``sop``      Stanford_Online_Products/Ebay_{train,test}.txt  59,551 / 11,318          60,502 / 11,316
``inshop``   [Eval/]list_eval_partition.txt, [Img/]img       25,882 / 3,997           query 14,218, gallery
                                                                                      12,612 / 3,985
``faces``    att_faces/s1/1.pgm ... s40/10.pgm               200 / 20                 200 / 20
===========  ==============================================  =======================  ======================

Images are those of the lists, never what else lies in the folders (``._`` files, thumbnails). A list whose
numbers are not the published ones is refused with its path, except that CUB may come with fewer classes: such
a subset says so in the notes of the data set.

`load_metric_splits` gives the parts that training and evaluation need, also for sets that have no
class-disjoint split of their own: there every other class trains and the rest tests.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wasskit.data.base import BadImage, ImageDataset
from wasskit.data.catalog import CARDS, data_root
from wasskit.data.decode import bad_images_message, drop_bad_images, without_bad_images
from wasskit.data.folder import load_folder
from wasskit.data.matlab import read_mat
from wasskit.data.registry import Corrupt, Request, load_dataset, register
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.system.documents import read_text

PUBLISHED: dict[tuple[str, str], tuple[int, int]] = {
    ("cub", "train"): (5_864, 100),
    ("cub", "test"): (5_924, 100),
    ("cars", "train"): (8_054, 98),
    ("cars", "test"): (8_131, 98),
    ("sop", "train"): (59_551, 11_318),
    ("sop", "test"): (60_502, 11_316),
    ("inshop", "train"): (25_882, 3_997),
    ("inshop", "query"): (14_218, 3_985),
    ("inshop", "gallery"): (12_612, 3_985),
    ("faces", "train"): (200, 20),
    ("faces", "test"): (200, 20),
}
"""Images and classes of each split, as published."""


@dataclass(frozen=True)
class MetricSplits:
    """What a metric is trained and measured on. No class of one part is in another.

    ``test`` holds the queries; ``gallery`` is what they search, or None where the queries search one another.
    Labels of ``test`` and ``gallery`` number the same classes; those of ``train`` and ``val`` count from 0 on
    their own.
    """

    train: ImageDataset
    val: ImageDataset | None
    test: ImageDataset
    gallery: ImageDataset | None


def load_metric_splits(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    validation: float = 0.0,
    corrupt: Corrupt = "refuse",
    seed: int = 0,
    image_size: int | None = None,
) -> MetricSplits:
    """The class-disjoint parts of a data set.

    ``validation`` > 0 takes that share of the training *classes*, drawn by ``seed``, for a part of their own.
    ``root``, ``corrupt`` and ``image_size`` as for `wasskit.data.registry.load_dataset`. Raises `UserError`
    as there, and
    for a set with too few classes to divide.
    """
    if not 0 <= validation < 1:
        raise UserError(f"the validation part must be a fraction of the classes in [0, 1), not {validation}")
    card = CARDS.get(name)
    gallery: ImageDataset | None = None
    if card is not None and card.module == __name__:
        parts = {
            split: load_dataset(name, split, root=root, corrupt=corrupt, image_size=image_size)
            for split in card.splits
        }
        train, test, gallery = parts["train"], parts.get("test", parts.get("query")), parts.get("gallery")
        assert test is not None
    elif name == "imagefolder" and all((data_root(root) / split).is_dir() for split in ("train", "test")):
        train, test = (load_folder(data_root(root) / split, corrupt=corrupt) for split in ("train", "test"))
        if image_size is not None:
            train, test = train.resized(image_size), test.resized(image_size)
        _check_disjoint(train, test, data_root(root))
    else:
        splits = ("all",) if name == "imagefolder" else (card.splits if card is not None else ("train",))
        everything = _joined(
            [load_dataset(name, split, root=root, corrupt=corrupt, image_size=image_size) for split in splits]
        )
        train, test = _halves(everything)
    val: ImageDataset | None = None
    if validation:
        train, val = split_classes(train, validation, seed)
    return MetricSplits(train, val, test, gallery)


def split_classes(dataset: ImageDataset, fraction: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """``(rest, part)``: ``part`` has ``fraction`` of the classes, drawn by ``seed``; labels of both count from 0."""
    number = len(dataset.classes)
    taken = round(fraction * number)
    if taken < 2 or number - taken < 2:
        raise UserError(
            f"a validation part of {fraction} of the {number} training classes of {dataset.name} leaves "
            f"{max(0, number - taken)} classes to train and {taken} to validate; two of each are needed"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "classes"))
    order = torch.randperm(number, generator=generator)
    rest, part = (dataset.select_classes(sorted(ids.tolist())) for ids in (order[taken:], order[:taken]))
    part.split = "val"
    return rest, part


def _joined(parts: Sequence[ImageDataset]) -> ImageDataset:
    """The splits of one set in memory, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.images is None or part.labels is None for part in parts):
        raise UserError(f"{first.name} has no class-disjoint split for metric learning; see wasskit info")
    return ImageDataset(
        first.name,
        "all",
        first.classes,
        labels=torch.cat([part.labels for part in parts if part.labels is not None]),
        images=torch.cat([part.images for part in parts if part.images is not None]),
        mean=first.mean,
        std=first.std,
    )


def _halves(everything: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """The images of every other class, beginning with the first, and those of the rest."""
    number = len(everything.classes)
    if everything.labels is None or number < 4:
        raise UserError(
            f"{everything.name} has {number} classes; metric learning trains on half of them and tests on the "
            "others, so at least 4 are needed"
        )
    train, test = (everything.select_classes(range(first, number, 2)) for first in (0, 1))
    train.split, test.split = "train", "test"
    return train, test


def _check_disjoint(train: ImageDataset, test: ImageDataset, root: Path) -> None:
    for part in (train, test):
        if part.labels is None:
            raise UserError(f"{root / part.split} holds images without labels; give it one folder per class")
    shared = sorted(set(train.classes) & set(test.classes))
    if shared:
        raise UserError(
            f"{root} has {len(shared)} classes in train and in test ({', '.join(shared[:3])}); "
            "metric learning is measured on classes that it has not seen"
        )


# --- the original layouts ---


def _build(
    request: Request,
    source: Path,
    base: Path,
    images: Sequence[tuple[str, str]],
    *,
    subset: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageDataset:
    """A data set of (path below ``base``, class) pairs listed in ``source``, after checking that they are
    right.

    ``classes``: the names that labels number (default: those that occur, sorted). ``subset``: fewer classes
    than published are a subset, not an error.
    """
    assert request.card is not None
    names = sorted({name for _, name in images})
    expected = PUBLISHED[request.name, request.split]
    notes = []
    if (len(images), len(names)) != expected:
        found = f"{len(images):,} {request.split} images of {len(names):,} classes"
        published = f"{expected[0]:,} of {expected[1]:,}"
        if not subset or not 0 < len(names) < expected[1]:
            raise UserError(f"{source} lists {found}, but {request.name} has {published}; get it anew")
        notes.append(f"{found}: a subset, the whole set has {published}")
    numbering = {name: i for i, name in enumerate(classes or names)}
    dataset = ImageDataset(
        request.name,
        request.split,
        tuple(numbering),
        labels=torch.tensor([numbering[name] for _, name in images]),
        paths=[base / path for path, _ in images],
        image_size=request.card.image_size,
        channels=request.card.channels,
        mean=request.card.mean,
        std=request.card.std,
        notes=notes,
    )
    missing = _missing(base, [path for path, _ in images])
    if missing and request.corrupt == "refuse":
        raise UserError(
            f"{source} names files that are not there: {bad_images_message(missing, len(images))}"
        )
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


def _rows(file: Path, columns: int, *, skip: int = 0) -> list[list[str]]:
    """The whitespace-separated rows of a list file, each checked to have ``columns`` entries."""
    rows = [line.split() for line in read_text(file).splitlines()[skip:] if line.strip()]
    for number, row in enumerate(rows, skip + 1):
        if len(row) != columns:
            raise UserError(f"{file} line {number} has {len(row)} entries in place of {columns}; get it anew")
    return rows


def _numbered(file: Path, rows: Sequence[Sequence[str]], column: int) -> list[int]:
    try:
        return [int(row[column]) for row in rows]
    except ValueError as error:
        raise UserError(f"{file} should have numbers in column {column + 1}: {error}; get it anew") from error


@register("cub")
def _cub(request: Request) -> ImageDataset:
    """Caltech-UCSD Birds-200-2011: classes 1-100 train, 101-200 test (Oh Song et al., CVPR 2016)."""
    folder = request.find() / "CUB_200_2011"
    file = folder / "images.txt"
    # The class number opens the name of an image's folder, 001.Black_footed_Albatross.
    paths = [path for _, path in _rows(file, 2)]
    rows = [(path, path.partition("/")[0]) for path in paths]
    numbers = _numbered(file, [[name.partition(".")[0]] for _, name in rows], 0)
    train = request.split == "train"
    chosen = [row for row, number in zip(rows, numbers, strict=True) if (number <= 100) == train]
    return _build(request, file, folder / "images", chosen, subset=True)


@register("sop")
def _sop(request: Request) -> ImageDataset:
    """Stanford Online Products (Oh Song et al., CVPR 2016): the two lists are the split."""
    folder = request.find() / "Stanford_Online_Products"
    file = folder / f"Ebay_{request.split}.txt"
    rows = _rows(file, 4, skip=1)  # image_id class_id super_class_id path
    width = len(str(max(_numbered(file, rows, 1), default=0)))
    return _build(request, file, folder, [(path, name.zfill(width)) for _, name, _, path in rows])


@register("inshop")
def _inshop(request: Request) -> ImageDataset:
    """In-Shop Clothes Retrieval of DeepFashion (Liu et al., CVPR 2016): train, query and gallery of one list."""
    base = request.find()
    file = next(
        p for p in (base / "list_eval_partition.txt", base / "Eval/list_eval_partition.txt") if p.exists()
    )
    rows = _rows(file, 3, skip=2)  # image_name item_id evaluation_status, below the number of rows
    announced = read_text(file).partition("\n")[0].strip()
    if announced != str(len(rows)):
        raise UserError(f"{file} announces {announced!r} images and lists {len(rows)}; get it anew")
    images = next((p for p in (base, base / "Img", base / "img_highres") if (p / "img").is_dir()), base)
    chosen = [(path, item) for path, item, status in rows if status == request.split]
    # Queries and gallery must number the same items.
    tested = sorted({item for _, item, status in rows if status in ("query", "gallery")})
    return _build(request, file, images, chosen, classes=None if request.split == "train" else tested)


@register("cars")
def _cars(request: Request) -> ImageDataset:
    """Cars-196 (Krause et al., 2013): classes 1-98 train, 99-196 test, whichever way the images are stored.

    The original layout has one folder car_ims and cars_annos.mat; the newer one divides the images into
    cars_train and cars_test with a devkit, whose test labels come in a file of their own.
    """
    base = request.find()
    if (base / "cars_annos.mat").exists():
        file = base / "cars_annos.mat"
        content = _mat(file)
        rows = _annotated(content, "relative_im_path", file)
        names = content.get("class_names")
    else:
        file = base / "devkit" / "cars_train_annos.mat"
        rows = [(f"cars_train/{name}", number) for name, number in _annotated(_mat(file), "fname", file)]
        labelled = [
            base / "devkit" / "cars_test_annos_withlabels.mat",
            base / "cars_test_annos_withlabels.mat",
        ]
        with_labels = next((p for p in labelled if p.exists()), None)
        if with_labels is None:
            raise UserError(
                f"the labels of {base / 'cars_test'} are missing: put cars_test_annos_withlabels.mat into {base} "
                f"or {base / 'devkit'}"
            )
        rows += [
            (f"cars_test/{name}", number)
            for name, number in _annotated(_mat(with_labels), "fname", with_labels)
        ]
        meta = base / "devkit" / "cars_meta.mat"
        names = _mat(meta).get("class_names") if meta.exists() else None
    labels = {number: f"{number:03d}" for _, number in rows}
    titles = [
        name for entry in names or () if isinstance(entry, list) for name in entry if isinstance(name, str)
    ]
    if len(titles) == 196:
        labels = {number: f"{number:03d} {titles[number - 1]}" for number in labels}
    train = request.split == "train"
    chosen = [(path, labels[number]) for path, number in rows if (number <= 98) == train]
    return _build(request, file, base, chosen)


def _mat(file: Path) -> dict[str, Any]:
    content = read_mat(file)
    if "annotations" not in content and "class_names" not in content:
        raise UserError(f"{file} has no annotations; get the data set anew")
    return content


def _annotated(content: Mapping[str, list[Any]], path_key: str, file: Path) -> list[tuple[str, int]]:
    """The paths and class numbers of the annotations in a MATLAB file, an array of structures."""
    rows = []
    for number, annotation in enumerate(content.get("annotations", []), 1):
        for name in (path_key, "class"):
            if not isinstance(annotation, dict) or name not in annotation:
                raise UserError(
                    f"the annotations of {file} have no {name!r}; is it the file with the labels?"
                )
        match annotation[path_key], annotation["class"]:
            case [str(path)], [float(label)] if 1 <= label <= 196:
                rows.append((path, int(label)))
            case _:
                raise UserError(
                    f"annotation {number} of {file} has no path and class from 1 to 196; get it anew"
                )
    return rows


@register("faces")
def _faces(request: Request) -> ImageDataset:
    """The ORL faces (Samaria & Harter, 1994): 10 images each of 40 people, of whom 1-20 train and 21-40 test."""
    folder = request.find() / "att_faces"
    people = range(1, 21) if request.split == "train" else range(21, 41)
    rows = [(f"s{person}/{image}.pgm", f"s{person:02d}") for person in people for image in range(1, 11)]
    return _build(request, folder, folder, rows)
