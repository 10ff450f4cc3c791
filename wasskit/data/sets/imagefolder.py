"""The user's own images."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


def _look(root: Path) -> Path | str:
    # Any root would do, so only a folder of that name counts as found unasked.
    named = root / "imagefolder"
    return named if named.exists() else "any folder of images or CSV file named by --data-root"


def _by_class(request: Request) -> dict[str, ImageDataset]:
    """The folders ``train`` and ``test``, each with classes of its own, where the root has both."""
    from wasskit.data.folder import load_folder

    folders = {split: request.root / split for split in ("train", "test")}
    if not all(folder.is_dir() for folder in folders.values()):
        return {}
    return {split: load_folder(folder, corrupt=request.corrupt) for split, folder in folders.items()}


@register(
    DatasetCard(
        "imagefolder",
        "your own images: class folders, a flat folder, or a CSV of path,label",
        ("train", "val", "test", "all"),
        num_classes=None,
        image_size=224,
        channels=3,
        files=(".",),
        source="give the folder or the CSV file by --data-root",
        look=_look,
        by_class=_by_class,
    )
)
def imagefolder(request: Request) -> ImageDataset:
    """The folder or CSV file named as the data root; see `wasskit.data.folder.load_folder`."""
    from wasskit.data.folder import load_folder

    place = _look(request.root)
    if isinstance(place, str):
        place = request.root
        if not request.explicit:
            raise UserError(
                f"which images? Name their folder or CSV file by --data-root, or put them into {place / 'imagefolder'}"
            )
        if not place.exists():
            raise UserError(f"there is no folder or CSV file {place}; name one by --data-root")
    return load_folder(place, request.split, corrupt=request.corrupt)
