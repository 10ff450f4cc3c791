"""``wasskit ssl embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, Invocation, argument, option
from wasskit.options import OverwriteOptions, complete_local_paths
from wasskit.plugins.ssl.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class Embed(ModelArgument, OverwriteOptions):
    """Options of ``wasskit ssl embed``."""

    folder: Path = argument(
        help="Folder of images, with or without class folders, or a CSV of path,label.",
        complete=complete_local_paths,
        metavar="IMAGES",
    )
    output: Path = option(
        Path("embeddings.npy"), help="Where to write: .npy, and a .csv of the paths beside it.", panel="Output",
        short="-o",
    )  # fmt: skip
    what: Literal["features", "projections"] = option(
        "features", help="The backbone's features, or the projector's projections.", panel="Model"
    )


def body(config: Embed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.folder import load_folder
    from wasskit.distributed.group import group
    from wasskit.evaluation.embedding import embedding_files, write_embeddings
    from wasskit.plugins.ssl.measure import fitted, settings_of
    from wasskit.plugins.ssl.network import load_model

    config.claim(*embedding_files(config.output))
    with group(config.device) as device:
        model = load_model(config.run, device, config.checkpoint)
        description = model.description
        images = load_folder(
            config.folder, corrupt=config.corrupt, image_size=description["image_size"],
            channels=description["channels"],
        )  # fmt: skip
        images = fitted(images, model)
        settings = settings_of(config, device)
        encoder = model.encoder.backbone if config.what == "features" else model.encoder
        assert images.paths is not None
        path, table = write_embeddings(
            config.output, encoder, settings.loader(images), names=[str(name) for name in images.paths],
            labels=images.labels, classes=images.classes, **settings.encoding,
        )  # fmt: skip
    if not config.json:
        console.result(
            f"{len(images):,} {config.what} in {console.escape(str(path))}, their paths in {table.name}."
        )
    return {"images": len(images), "embeddings": str(path), "table": str(table)}


command = Command(
    "ssl embed",
    Embed,
    body,
    "Embed a folder of images by a pretrained backbone.",
    ("wasskit ssl embed runs/ssl/byol-cifar10 PHOTOS -o photos.npy",),
)
