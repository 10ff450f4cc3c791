"""Parts of a data set for metric learning: the test classes are none of the training classes.

Sets of metric learning are published in such parts. Of others every other class trains and the rest tests.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from wasskit.data.base import ImageDataset
from wasskit.data.card import Corrupt, Request, data_root
from wasskit.data.registry import card_of, load_dataset
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError


@dataclass(frozen=True)
class MetricSplits:
    """What a metric is trained and measured on. No class of one part is in another.

    ``test`` holds the queries; ``gallery`` is what they search, or None where the queries search one another. Labels of
    ``test`` and ``gallery`` number the same classes; those of ``train`` and ``val`` count from 0 on their own.
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

    ``validation`` > 0 takes that share of the training *classes*, drawn by ``seed``, for a part of their own. ``root``,
    ``corrupt`` and ``image_size`` as for `wasskit.data.registry.load_dataset`. Raises `UserError` as there, and for a
    set with too few classes to divide.
    """
    if not 0 <= validation < 1:
        raise UserError(f"the validation part must be a fraction of the classes in [0, 1), not {validation}")
    card = card_of(name)
    load = functools.partial(load_dataset, name, root=root, corrupt=corrupt, image_size=image_size)
    request = Request(card, "", data_root(root), root is not None, corrupt=corrupt, seed=seed)
    parts = dict(card.by_class(request)) if card.by_class is not None else {}
    if parts:
        if image_size is not None:
            parts = {split: part.resized(image_size) for split, part in parts.items()}
        _check_disjoint(card.name, parts)
    else:
        parts = _halves(_joined([load(split) for split in (("all",) if "all" in card.splits else card.splits)]))
    train, val, test = parts["train"], None, parts["test" if "test" in parts else "query"]
    if validation:
        train, val = split_classes(train, validation, seed)
    return MetricSplits(train, val, test, parts.get("gallery"))


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
    return rest, replace(part, split="val")


def _joined(parts: Sequence[ImageDataset]) -> ImageDataset:
    """The splits of one set in memory, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.images is None or part.labels is None for part in parts):
        raise UserError(f"{first.name} has no class-disjoint split for metric learning; see wasskit info")
    return replace(
        first,
        split="all",
        labels=torch.cat([part.labels for part in parts if part.labels is not None]),
        images=torch.cat([part.images for part in parts if part.images is not None]),
        notes=[note for part in parts for note in part.notes],
        size=None,
    )


def _halves(everything: ImageDataset) -> dict[str, ImageDataset]:
    """The images of every other class, beginning with the first, and those of the rest."""
    number = len(everything.classes)
    if everything.labels is None or number < 4:
        raise UserError(
            f"{everything.name} has {number} classes; metric learning trains on half of them and tests on the "
            "others, so at least 4 are needed"
        )
    return {
        split: replace(everything.select_classes(range(first, number, 2)), split=split)
        for first, split in enumerate(("train", "test"))
    }


def _check_disjoint(name: str, parts: Mapping[str, ImageDataset]) -> None:
    for split, part in parts.items():
        if part.labels is None:
            raise UserError(f"the part {split} of {name} has no labels; give it one folder per class")
    train, *tests = parts.values()
    shared = sorted(set(train.classes) & {label for part in tests for label in part.classes})
    if shared:
        raise UserError(
            f"{name} has {len(shared)} classes in train and in test ({', '.join(shared[:3])}); "
            "metric learning is measured on classes that it has not seen"
        )
