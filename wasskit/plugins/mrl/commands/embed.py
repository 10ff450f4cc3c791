"""``wasskit mrl embed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions, complete_local_paths
from wasskit.plugins.mrl.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class MrlEmbed(ModelArgument, OverwriteOptions):
    """Options of ``wasskit mrl embed``."""

    images: Path = argument(
        help="Folder of images (with class folders or without), or a CSV of path,label.",
        complete=complete_local_paths,
        metavar="IMAGES",
    )
    dim: int | None = option(
        None, help="Length of the prefix.", panel="Embeddings", min=1, show_default="the whole embedding"
    )
    unit: bool = option(
        False,
        help="Scale the prefix to unit length again (otherwise it is a part of the unit embedding).",
        panel="Embeddings",
        flag="--unit",
    )
    output: Path = option(
        Path("embeddings.npy"),
        help="File to write (.npy); the paths go into a .csv beside it.",
        panel="Output",
        short="-o",
        complete=complete_local_paths,
    )
    dtype: Literal["float32", "float16"] = option("float32", help="Type of the numbers.", panel="Embeddings")
    corrupt: Literal["refuse", "skip"] = option(
        "refuse", help="What to do with images that cannot be read.", panel="Data"
    )
    batch_size: int = option(256, help="Images per batch.", panel="Machine", min=1, short="-b")
    workers: int | None = option(
        None, help="Loader processes.", panel="Machine", min=0, show_default="by the number of cores"
    )


def body(config: MrlEmbed, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.folder import load_folder
    from wasskit.data.loaders import EvalLoader
    from wasskit.distributed.group import group
    from wasskit.evaluation.embedding import embedding_files, write_embeddings
    from wasskit.plugins.mrl.network import PrefixEmbedder
    from wasskit.plugins.mrl.trained import load_model

    config.claim(*embedding_files(config.output))
    with group(config.device) as device:
        model = load_model(config.model, device, config.checkpoint)
        dim = model.dims[-1] if config.dim is None else config.dim
        if dim > model.dims[-1]:
            raise UserError(
                f"--dim: {dim} is larger than the embedding, which has {model.dims[-1]} coordinates."
            )
        described = model.description
        dataset = load_folder(
            config.images,
            corrupt=config.corrupt,
            image_size=described["image_size"],
            channels=described["channels"],
            mean=described["mean"],
            std=described["std"],
        )
        for note in dataset.notes:
            console.log(console.escape(note))
        for bad in dataset.skipped:
            console.warn(f"left out {bad}")
        loader = EvalLoader(dataset, config.batch_size, device=device, workers=config.workers)
        path, table = write_embeddings(
            config.output,
            PrefixEmbedder(model.network, dim, unit=config.unit),
            loader,
            names=dataset.paths or [],
            labels=dataset.labels,
            classes=dataset.classes,
            precision="bf16" if config.precision == "bf16" else "float32",
            dtype=config.dtype,
        )
        loader.close()
    if not config.json:
        console.result(f"{len(dataset):,} embeddings of {dim} numbers: {console.escape(str(path))}")
        console.result(f"Their images: {console.escape(str(table))}")
    return {
        "images": len(dataset),
        "dim": dim,
        "embeddings": str(path),
        "table": str(table),
        "skipped": [str(bad) for bad in dataset.skipped],
    }


command = Command(
    "mrl embed",
    MrlEmbed,
    body,
    "Embed a folder of images at a chosen dimension.\n\n"
    "Row i of the .npy file is the embedding of the image in row i of the CSV.",
    (
        "wasskit mrl embed runs/mrl/digits photos/ --dim 64 --output photos.npy",
        "wasskit mrl embed model.safetensors photos/ --dim 16 --unit",
    ),
)
