"""Cars-196 (Krause et al., 2013)."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wasskit.data.card import DatasetCard, Request, each_split, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "cars",
        "Cars-196, class-disjoint (98 / 98)",
        ("train", "test"),
        num_classes=196,
        image_size=224,
        channels=3,
        tasks=("metric",),
        files=("cars_annos.mat", "car_ims"),
        alternatives=(("devkit", "cars_train", "cars_test"),),
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        folders=("cars", "cars196", "CARS196", "stanford_cars"),
        counts={"train": 8_054, "test": 8_131},
        class_counts={"train": 98, "test": 98},
        by_class=each_split,
    )
)
def cars(request: Request) -> ImageDataset:
    """Cars-196 (Krause et al., 2013): classes 1-98 train, 99-196 test, whichever way the images are stored.

    The original layout has one folder car_ims and cars_annos.mat; the newer one divides the images into
    cars_train and cars_test with a devkit, whose test labels come in a file of their own.
    """
    from wasskit.data.lists import listed

    base = request.find()
    if (base / "cars_annos.mat").exists():
        file = base / "cars_annos.mat"
        content = _mat(file)
        rows = _annotated(content, "relative_im_path", file)
        names = content.get("class_names")
    else:
        file = base / "devkit" / "cars_train_annos.mat"
        rows = [(f"cars_train/{name}", number) for name, number in _annotated(_mat(file), "fname", file)]
        labelled = [base / "devkit" / "cars_test_annos_withlabels.mat", base / "cars_test_annos_withlabels.mat"]
        with_labels = next((p for p in labelled if p.exists()), None)
        if with_labels is None:
            raise UserError(
                f"the labels of {base / 'cars_test'} are missing: put cars_test_annos_withlabels.mat into {base} "
                f"or {base / 'devkit'}"
            )
        rows += [(f"cars_test/{name}", number) for name, number in _annotated(_mat(with_labels), "fname", with_labels)]
        meta = base / "devkit" / "cars_meta.mat"
        names = _mat(meta).get("class_names") if meta.exists() else None
    labels = {number: f"{number:03d}" for _, number in rows}
    titles = [name for entry in names or () if isinstance(entry, list) for name in entry if isinstance(name, str)]
    if len(titles) == 196:
        labels = {number: f"{number:03d} {titles[number - 1]}" for number in labels}
    train = request.split == "train"
    chosen = [(path, labels[number]) for path, number in rows if (number <= 98) == train]
    return listed(request, file, base, chosen)


def _mat(file: Path) -> dict[str, Any]:
    from wasskit.data.formats.matlab import read_mat

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
                raise UserError(f"the annotations of {file} have no {name!r}; is it the file with the labels?")
        match annotation[path_key], annotation["class"]:
            case [str(path)], [float(label)] if 1 <= label <= 196:
                rows.append((path, int(label)))
            case _:
                raise UserError(f"annotation {number} of {file} has no path and class from 1 to 196; get it anew")
    return rows
