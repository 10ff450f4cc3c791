"""``wasskit metrix embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, Invocation, argument, option
from wasskit.options import OverwriteOptions, complete_local_paths
from wasskit.plugins.metrix.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class MetrixEmbed(ModelArgument, OverwriteOptions):
    """Options of ``wasskit metrix embed``."""

    images: Path = argument(
        help="Folder of images (with class folders or without), an image, or a CSV of path,label.",
        complete=complete_local_paths,
        metavar="IMAGES",
    )
    output: Path = option(
        Path("embeddings.npy"),
        help="File to write (.npy); the paths go into a .csv beside it.",
        panel="Output",
        short="-o",
        complete=complete_local_paths,
    )
    dtype: Literal["float32", "float16"] = option("float32", help="Type of the numbers.", panel="Output")
    corrupt: Literal["refuse", "skip"] = option(
        "refuse", help="What to do with images that cannot be read.", panel="Data"
    )
    batch_size: int = option(256, help="Images per batch.", panel="Machine", min=1, short="-b")
    workers: int | None = option(
        None, help="Loader processes.", panel="Machine", min=0, show_default="by the number of cores"
    )


def body(config: MetrixEmbed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import group
    from wasskit.evaluation.embedding import embedding_files, write_embeddings
    from wasskit.plugins.metrix.data import eval_loader, open_images
    from wasskit.plugins.metrix.network import load_model

    config.claim(*embedding_files(config.output))
    with group(config.device) as device:
        model = load_model(config.model, device, config.checkpoint)
        dataset = open_images(config.images, model.description, corrupt=config.corrupt)
        for note in dataset.notes:
            console.log(console.escape(note))
        for bad in dataset.skipped:
            console.warn(f"left out {bad}")
        loader = eval_loader(
            dataset,
            device,
            squares=bool(model.description["in_memory"]),
            batch_size=config.batch_size,
            workers=config.workers,
        )
        path, table = write_embeddings(
            config.output,
            model.network,
            loader,
            names=dataset.paths or [],
            labels=dataset.labels,
            classes=dataset.classes,
            precision="bf16" if config.precision == "bf16" else "float32",
            dtype=config.dtype,
        )
        loader.close()
    dim = int(model.description["embedding_size"])
    if not config.json:
        console.result(f"{len(dataset):,} unit embeddings of {dim} numbers: {console.escape(str(path))}")
        console.result(f"Their images: {console.escape(str(table))}")
    return {
        "images": len(dataset),
        "dim": dim,
        "embeddings": str(path),
        "table": str(table),
        "skipped": [str(bad) for bad in dataset.skipped],
    }


command = Command(
    "metrix embed",
    MetrixEmbed,
    body,
    "Embed a folder of images.\n\nRow i of the .npy file is the unit embedding of the image in row i of the CSV.",
    (
        "wasskit metrix embed runs/metrix/cub photos/ --output photos.npy",
        "wasskit metrix embed model.safetensors photos/ --dtype float16",
    ),
)
