"""``wasskit metrix search``."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.plugins.metrix.options import ModelDataOptions

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@dataclass(frozen=True, kw_only=True)
class MetrixSearch(ModelDataOptions):
    """Options of ``wasskit metrix search``."""

    image: str = argument(
        help="Image file, or the number of an image of the model's test set.",
        complete=complete_local_paths,
        metavar="IMAGE",
    )
    gallery: Path | None = option(
        None,
        help="Folder of images to search, or a CSV of path,label.",
        panel="Data",
        complete=complete_local_paths,
        show_default="the model's test set",
    )
    k: int = option(8, help="How many images to find.", panel="Output", min=1, short="-k")


def body(config: MetrixSearch, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.metrix.reports import search_report
    from wasskit.plugins.metrix.trained import KIND, embed_images, open_parts
    from wasskit.report import finish
    from wasskit.trained.data import open_images, results_of

    path = Path(config.image)
    number = int(config.image) if not path.exists() and config.image.isdecimal() else None
    if not path.exists() and number is None:
        raise UserError(f"There is no image {path}: name a file, or a number of the model's test set.")
    with group(config.machine.device) as device:
        name = f"search_{path.stem}"
        picture = f"figures/{name}.png"
        folder = results_of(config, "metrix", picture)
        model = KIND.load(config.trained.model, device, config.trained.checkpoint)
        parts = open_parts(model, config) if number is not None or config.gallery is None else None
        if parts is None or number is None:
            query = open_images(path, model.description, name="query")
            if len(query) != 1:
                raise UserError(f"IMAGE: {path} holds {len(query):,} images: name one of them.")
        else:
            query = _numbered(parts.test, number)
        if parts is None or config.gallery is not None:
            assert config.gallery is not None
            gallery = open_images(config.gallery, model.description, corrupt=config.data.corrupt, name="gallery")
        else:
            gallery = parts.gallery if parts.gallery is not None else parts.test
        asked, items = ((part, embed_images(model, config, part, device).features) for part in (query, gallery))
        own = number if parts is not None and gallery is parts.test else None
        report = search_report(config.image, asked, items, config.k, own=own, figure=name)
    finish(report, folder)
    return {**report.result, "picture": str(folder / picture)}


def _numbered(test: ImageDataset, number: int) -> ImageDataset:
    if number >= len(test):
        raise UserError(
            f"IMAGE: the test set of {test.name} has {len(test):,} images, counted from 0; there is no {number}."
        )
    return test.subset([number])


command = Command(
    "metrix search",
    MetrixSearch,
    body,
    "Find the images nearest to an image, as a table and as a picture.",
    (
        "wasskit metrix search runs/metrix/digits 0",
        "wasskit metrix search runs/metrix/cub bird.jpg --gallery photos/ -k 12",
        "wasskit metrix search model.safetensors bird.jpg --gallery photos/",
    ),
)
