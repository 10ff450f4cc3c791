"""How a data set declares itself: its facts, where its files lie, and the function that loads it.

Free of torch and numpy: completion needs the facts. A new set is one file in ``wasskit/data/sets``::

    @register(DatasetCard("name", "what it is", splits=("train", "test"), ...))
    def load(request: Request) -> ImageDataset:
        from wasskit.data.base import ImageDataset  # here, not above: torch comes with it
        ...
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wasskit.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from wasskit.errors import UserError
from wasskit.system.locks import held

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset

Corrupt = Literal["refuse", "skip"]
EVERY_TASK = ("classification", "ssl", "metric")


@dataclass(frozen=True)
class DatasetCard:
    """The facts about one data set.

    ``splits`` are those that exist without ``validation``; one called "all" holds the images of the others.
    ``num_classes`` is None where the folder decides. ``image_size`` is the side in pixels that the set is used
    at. ``files`` must all exist, relative to the data root or to one of ``folders`` in it; ``alternatives``
    are other layouts that will do as well. No files: built in. ``counts`` and ``class_counts`` are the
    published numbers of images and classes of each split.

    ``look`` gives the place of the set below a data root, or the reason why it is not there (None: where its files
    are). ``by_class`` gives the parts for metric learning, "train", "test" or "query", and "gallery", whose classes
    differ; where there is none, or it gives none, every other class trains. ``load`` gives a split.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    num_classes: int | None
    image_size: int
    channels: int
    tasks: tuple[str, ...] = EVERY_TASK
    files: tuple[str, ...] = ()
    source: str = ""
    folders: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    downloadable: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    counts: Mapping[str, int] = field(default_factory=dict)
    class_counts: Mapping[str, int] = field(default_factory=dict)
    look: Callable[[Path], Path | str] | None = None
    by_class: Callable[[Request], Mapping[str, ImageDataset]] | None = None
    load: Callable[[Request], ImageDataset] | None = None

    @property
    def built_in(self) -> bool:
        return not self.files

    def locate(self, root: Path) -> Path | str:
        """The folder that holds all files of one of the layouts, or the reason why the set is not there (a str)."""
        if self.look is not None:
            return self.look(root)
        if self.built_in:
            return Path("built in")
        for base in self.candidates(root):
            for files in (self.files, *self.alternatives):
                if all(any(base.glob(f)) if "*" in f else (base / f).exists() for f in files):
                    return base
        if not root.is_dir():
            return f"the folder {root} is not there"
        named = root / (*self.folders, self.name)[0]
        return f"needs {_listed(self.files, 3)} in {root} or {named}"

    def candidates(self, root: Path) -> Iterator[Path]:
        """The folders the set is looked for in: the root itself, then its known folder names inside the root."""
        yield root
        for folder in dict.fromkeys((self.name, *self.folders)):
            yield root / folder
        # The root may also be the innermost folder, `.../cifar-10-batches-py` say.
        if self.files and root.name and root.name == self.files[0].split("/")[0]:
            yield root.parent

    def missing(self, root: Path) -> UserError:
        """The error for a set that is not there: where it was looked for, which files, where to get them."""
        folders = ", ".join(str(root / folder) for folder in dict.fromkeys((self.name, *self.folders[:2])))
        files = tuple(file for file in self.files if not (root / file).exists())
        download = ", or pass --download" if self.downloadable else ""
        return UserError(
            f"the data set {self.name} is not in {root} (nor in {folders}): expected {_listed(files, 4)}; "
            f"get it from {self.source}{download}, and name its folder by --data-root or WASSKIT_DATA"
        )


def _listed(files: tuple[str, ...], most: int) -> str:
    return ", ".join(files[:most]) + (f" and {len(files) - most} more" if len(files) > most else "")


CARDS: dict[str, DatasetCard] = {}
"""The declared sets; `wasskit.data.catalog` declares those that come with the package."""


@dataclass(frozen=True)
class Request:
    """What a loader is asked for: a split of its set below the data root ``root``.

    ``explicit`` says that the user named the root. ``find()`` is the folder that holds the set.
    """

    card: DatasetCard
    split: str
    root: Path
    explicit: bool = False
    download: bool = False
    corrupt: Corrupt = "refuse"
    seed: int = 0

    @property
    def name(self) -> str:
        return self.card.name

    def find(self) -> Path:
        """The folder that holds the files of the card; a `UserError` that says what is missing otherwise."""
        found = self.card.locate(self.root)
        if isinstance(found, str):
            raise self.card.missing(self.root)
        return found

    def obtain(self, download: Callable[[Request, Path], object]) -> Path:
        """As `find`, but a missing set is downloaded first where that is asked for.

        ``download(request, folder)`` puts it into a folder of its name in the root. The ranks of a run, and runs at the
        same time, take turns: the first downloads and the others find the set there.
        """
        if not self.download:
            return self.find()
        target, lock = self.root / self.name, self.root / f".{self.name}.lock"
        if isinstance(self.card.locate(self.root), Path):
            # Its files may be there and not yet whole: then the lock is there, too, and held.
            if lock.exists():
                with held(lock, wait=True, shared=True):
                    pass
            return self.find()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with held(lock, wait=True):
                if isinstance(self.card.locate(self.root), str):
                    download(self, target)
        except UserError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"downloading {self.name} to {target} failed: {reason}") from error
        return self.find()

    def dataset(self, **content: typing.Any) -> ImageDataset:
        """`ImageDataset` of this split with the card's facts, unless ``content`` gives others."""
        from wasskit.data.base import ImageDataset

        card = self.card
        facts = {key: getattr(card, key) for key in ("image_size", "channels", "mean", "std")}
        return ImageDataset(card.name, self.split, **(facts | content))

    def count_notes(self, count: int) -> list[str]:
        """A note about a set of which not all images are there."""
        whole = self.card.counts[self.split]
        return [] if count == whole else [f"{self.name}/{self.split}: {count:,} of {whole:,} images"]


Loader = Callable[[Request], "ImageDataset"]


def register(card: DatasetCard) -> Callable[[Loader], Loader]:
    """Decorator: declare the set of ``card``, whose splits ``function(request) -> ImageDataset`` loads."""

    def add(loader: Loader) -> Loader:
        CARDS[card.name] = dataclasses.replace(card, load=loader)
        return loader

    return add


def each_split(request: Request) -> dict[str, ImageDataset]:
    """``by_class`` of a set whose published splits differ in their classes."""
    load = request.card.load
    assert load is not None
    return {split: load(dataclasses.replace(request, split=split)) for split in request.card.splits}


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder to look in: the one given, else the environment's ``WASSKIT_DATA``, else ``data`` here."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("WASSKIT_DATA") or "data").expanduser()
