"""Data sets by name."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasskit.data.base import ImageDataset
from wasskit.data.catalog import CARDS, DatasetCard, data_root, locate, missing_files
from wasskit.data.splits import stratified_split
from wasskit.errors import UserError
from wasskit.system.hints import nearest
from wasskit.system.locks import held

Corrupt = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Request:
    """What a loader function is asked for.

    ``root`` is the data root; ``explicit`` says that the user named it. ``find()`` is the folder that holds
    the set.
    """

    card: DatasetCard | None
    name: str
    split: str
    root: Path
    explicit: bool
    download: bool
    corrupt: Corrupt
    seed: int

    def find(self) -> Path:
        """The folder that holds the files of the card; a `UserError` that says what is missing otherwise."""
        assert self.card is not None
        found = locate(self.card, self.root)
        if found is None:
            raise missing_dataset(self.card, self.root)
        return found

    def obtain(self, download: Callable[[Request, Path], object]) -> Path:
        """As `find`, but a missing set is downloaded first where that is asked for.

        ``download(request, folder)`` puts it into a folder of its name in the root. The ranks of a run, and runs at the
        same time, take turns: the first downloads and the others find the set there.
        """
        assert self.card is not None
        if not self.download:
            return self.find()
        target, lock = self.root / self.name, self.root / f".{self.name}.lock"
        if locate(self.card, self.root) is not None:
            # Its files may be there and not yet whole: then the lock is there, too, and held.
            if lock.exists():
                with held(lock, wait=True, shared=True):
                    pass
            return self.find()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with held(lock, wait=True):
                if locate(self.card, self.root) is None:
                    download(self, target)
        except UserError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"downloading {self.name} to {target} failed: {reason}") from error
        return self.find()

    def count_notes(self, count: int) -> list[str]:
        """A note about a set of which not all images are there."""
        assert self.card is not None
        whole = self.card.counts[self.split]
        return [] if count == whole else [f"{self.name}/{self.split}: {count:,} of {whole:,} images"]


Loader = Callable[[Request], ImageDataset]
_LOADERS: dict[str, Loader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Decorator: make ``function(request) -> ImageDataset`` the loader of the set ``name``."""

    def add(loader: Loader) -> Loader:
        _LOADERS[name] = loader
        return loader

    return add


def missing_dataset(card: DatasetCard, root: Path) -> UserError:
    """The error for a set that is not there: where it was looked for, which files, where to get them."""
    folders = ", ".join(str(root / folder) for folder in dict.fromkeys((card.name, *card.folders[:2])))
    missing = missing_files(card, root)
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    download = ", or pass --download" if card.downloadable else ""
    return UserError(
        f"the data set {card.name} is not in {root} (nor in {folders}): expected {shown}; "
        f"get it from {card.source}{download}, and name its folder by --data-root or WASSKIT_DATA"
    )


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
    card = CARDS.get(name)
    if card is not None and name not in _LOADERS:
        importlib.import_module(card.module)
    if name not in _LOADERS:
        known = sorted({*CARDS, *_LOADERS})
        close = nearest(name, known)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise UserError(f"no data set is called {name!r}; {hint}")

    split = {
        "unlabeled": "unlabelled",
        "train+unlabeled": "train+unlabelled",
        "valid": "val",
        "validation": "val",
    }.get(split, split)
    wanted = "train" if validation and split == "val" else split
    request = Request(card, name, wanted, data_root(root), root is not None, download, corrupt, seed)
    if card is not None and wanted not in card.splits and name != "imagefolder":
        hint = "; a part of train can serve (--validation 0.1)" if split == "val" else ""
        raise UserError(f"{name} has no split {split!r}: it has {', '.join(card.splits)}{hint}")
    dataset = _LOADERS[name](request)
    if len(dataset) == 0:
        raise UserError(f"the split {split!r} of {name} has no images")
    if image_size is not None:
        dataset = dataset.resized(image_size)
    if not validation or wanted != "train":
        return dataset
    rest, part = stratified_split(dataset.labels, validation, seed, size=len(dataset))
    chosen = dataset.subset(part if split == "val" else rest)
    chosen.split = split
    if len(chosen) == 0:
        raise UserError(
            f"a validation part of {validation} of the {len(dataset)} images of {name} leaves {split} empty"
        )
    return chosen
