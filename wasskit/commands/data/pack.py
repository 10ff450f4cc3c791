"""``wasskit data pack``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.options import DataFolderOptions, OverwriteOptions, ReadingOptions

if TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


def _sources(typed: str) -> Iterable[str]:
    from wasskit.data.catalog import CARDS

    named = [name for name, card in CARDS.items() if name.startswith(typed) and name != "packed" and not card.built_in]
    return [*named, *complete_local_paths(typed)]


@dataclass(frozen=True, kw_only=True)
class DataPack(CommandOptions):
    """Options of ``wasskit data pack``."""

    source: str = argument(
        help="A folder of images or a CSV of path,label, or the name of a data set.", complete=_sources
    )
    out: Path = argument(help="Folder for the packs, one for each split.", complete=complete_local_paths, metavar="OUT")
    size: int | None = option(
        None, help="Side in pixels of the squares that are stored.", panel="Data", min=8, max=4096,
        show_default="8/7 of the set's image size, 256 for 224",
    )  # fmt: skip
    split: str | None = option(
        None, help="Pack one split alone.", panel="Data", metavar="NAME", show_default="all that there are"
    )
    own_classes: bool = option(
        False, help="The folders train and test have classes of their own, for metric learning.", panel="Data",
        flag="--own-classes",
    )  # fmt: skip
    folder: DataFolderOptions = DataFolderOptions()
    reading: ReadingOptions = ReadingOptions()
    files: OverwriteOptions = OverwriteOptions()


def body(config: DataPack, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.packing import pack_split
    from wasskit.data.transforms import with_margin

    found: list[dict[str, Any]] = []
    for dataset in _splits(config):
        for note in dataset.notes:
            console.log_once(console.escape(note))
        side = config.size or with_margin(dataset.image_size)
        packed = pack_split(
            dataset, config.out, side=side, workers=config.reading.workers, overwrite=config.files.overwrite,
            say=lambda message: console.log(console.escape(message)),
        )  # fmt: skip
        found.append({"split": dataset.split, "path": str(packed.path), "images": packed.count, "made": packed.made,
                      "side": side, "bytes": packed.path.stat().st_size, "classes": len(dataset.classes)})  # fmt: skip
    if not config.json:
        rows = [(one["split"], f"{one['images']:,}", f"{one['bytes'] / 2**30:,.2f}", one["path"]) for one in found]
        console.table(None, ["Split", "Images", "GiB", "File"], rows)
        console.result("Train on it, for example:")
        call = console.command_line("ssl byol", "--dataset", "packed", "--data-root", config.out)
        console.result(f"  {call}")
    return {"packs": found}


def _splits(config: DataPack) -> list[ImageDataset]:
    """The splits to pack."""
    from wasskit.data.card import Request, data_root
    from wasskit.data.catalog import CARDS
    from wasskit.data.folder import folder_splits
    from wasskit.data.registry import card_of, load_dataset
    from wasskit.errors import UserError

    named = config.source in CARDS and not Path(config.source).exists()
    name, root = (config.source, config.folder.data_root) if named else ("imagefolder", Path(config.source))
    card, corrupt = card_of(name), config.reading.corrupt
    if name in ("packed", "imagefolder") and named:
        raise UserError(f"which images? {name} is no data set by itself: name their folder or CSV file")
    if not named and not Path(config.source).exists():
        raise UserError(
            f"there is neither a folder or CSV file {config.source} nor a data set of that name (`wasskit info` lists "
            "them)"
        )
    if config.own_classes:
        request = Request(card, "", data_root(root), explicit=True, corrupt=corrupt)
        parts = {} if card.by_class is None else dict(card.by_class(request))
        if not parts:
            raise UserError(f"{config.source} has no folders train and test whose classes are their own")
        parts = {split: _named(part, split) for split, part in parts.items()}
    else:
        splits = card.splits if named else folder_splits(Path(config.source))
        splits = tuple(split for split in splits if split not in ("all", "train+unlabelled"))
        if config.split is not None:
            splits = (config.split,)
        load = {"root": root, "download": config.folder.download, "corrupt": corrupt}
        parts = {split: load_dataset(name, split, **load) for split in splits}  # type: ignore[arg-type]
    if config.split is not None and config.split not in parts:
        raise UserError(f"{config.source} has no split {config.split!r}: it has {', '.join(parts)}")
    return [part for split, part in parts.items() if config.split in (None, split)]


def _named(dataset: ImageDataset, split: str) -> ImageDataset:
    from dataclasses import replace

    return replace(dataset, split=split)


command = Command(
    "data pack",
    DataPack,
    body,
    "Decode and resize images once, into files that training copies from.\n\n"
    "Each split becomes one file of squares of 8-bit pixels, which every command reads by `--dataset packed "
    "--data-root OUT`: thousands of images a second and core, where decoding JPEGs gives hundreds. A call that was "
    "killed is gone on with by the same call, and a finished file has been read again and compared with its checksums.",
    (
        "wasskit data pack PHOTOS packs/photos",
        "wasskit data pack imagenet100 packs/imagenet100 --data-root /data --workers 16",
        "wasskit ssl byol --dataset packed --data-root packs/imagenet100",
    ),
)
