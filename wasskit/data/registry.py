"""Data sets by name."""

from __future__ import annotations

import os
from dataclasses import replace

from wasskit.data.base import ImageDataset
from wasskit.data.card import Corrupt, DatasetCard, Request, data_root
from wasskit.data.catalog import CARDS
from wasskit.data.splits import stratified_split
from wasskit.errors import UserError
from wasskit.system.hints import nearest

__all__ = ["Corrupt", "Request", "card_of", "load_dataset"]


def card_of(name: str) -> DatasetCard:
    """The card of a set. Raises `UserError` for an unknown name, with the nearest known one."""
    if name not in CARDS:
        close = nearest(name, CARDS)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(CARDS))}"
        raise UserError(f"no data set is called {name!r}; {hint}")
    return CARDS[name]


def load_dataset(
    name: str,
    split: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    corrupt: Corrupt = "refuse",
    seed: int = 0,
    validation: float = 0.0,
    image_size: int | None = None,
) -> ImageDataset:
    """One split of a data set.

    ``root``: the data root (else ``WASSKIT_DATA``, else ``./data``); the set may lie in it or in a folder of
    its name. ``validation`` in (0, 1) splits that fraction of every class off "train", chosen by ``seed``:
    "train" is then the rest and "val" the part, for sets with a validation part of their own as well.
    ``corrupt``: images that are missing or cannot be decoded are refused, or left out and listed in
    ``dataset.skipped``.
    ``image_size``: the side in pixels to use the set at, instead of its usual one.

    Raises `UserError` for an unknown name or split, missing or damaged files, and a set without images.
    """
    if corrupt not in ("refuse", "skip"):
        raise UserError(f"corrupt images can be met by refuse or skip, not by {corrupt!r}")
    if not 0 <= validation < 1:
        raise UserError(f"the validation part must be a fraction in [0, 1), not {validation}")
    card = card_of(name)
    split = {"unlabeled": "unlabelled", "train+unlabeled": "train+unlabelled", "valid": "val", "validation": "val"}.get(
        split, split
    )
    wanted = "train" if validation and split == "val" else split
    request = Request(card, wanted, data_root(root), root is not None, download, corrupt, seed)
    if wanted not in card.splits:
        hint = "; a part of train can serve (--validation 0.1)" if split == "val" else ""
        raise UserError(f"{name} has no split {split!r}: it has {', '.join(card.splits)}{hint}")
    assert card.load is not None
    dataset = card.load(request)
    if len(dataset) == 0:
        raise UserError(f"the split {split!r} of {name} has no images")
    if image_size is not None:
        dataset = dataset.resized(image_size)
    if not validation or wanted != "train":
        return dataset
    rest, part = stratified_split(dataset.labels, validation, seed, size=len(dataset))
    chosen = replace(dataset.subset(part if split == "val" else rest), split=split)
    if len(chosen) == 0:
        raise UserError(
            f"a validation part of {validation} of the {len(dataset)} images of {name} leaves {split} empty"
        )
    return chosen
