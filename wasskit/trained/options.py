"""Options of the commands on a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasskit.config import CommandOptions, argument, option
from wasskit.options import (
    DataRootOptions,
    DeviceOptions,
    OverwriteOptions,
    complete_datasets,
    complete_local_paths,
    complete_models,
)


@dataclass(frozen=True, kw_only=True)
class ModelPath(CommandOptions):
    """The trained model a command works with."""

    model: Path = argument(
        help="Run directory, checkpoint (.pt) or exported weights (.safetensors).",
        complete=complete_models,
        metavar="MODEL",
    )


@dataclass(frozen=True, kw_only=True)
class ModelArgument(ModelPath, DeviceOptions):
    """The trained model a command works with, and where it is computed."""

    checkpoint: Literal["last", "best"] = option(
        "last", help="Which checkpoint of a run directory.", panel="Model"
    )


@dataclass(frozen=True, kw_only=True)
class ModelDataOptions(ModelArgument, DataRootOptions, OverwriteOptions):
    """The trained model and the data set it is measured on."""

    dataset: str | None = option(
        None,
        help="Data set.",
        panel="Data",
        metavar="NAME",
        complete=lambda typed: complete_datasets(typed),
        show_default="the one it was trained on",
    )
    batch_size: int = option(256, help="Images per batch.", panel="Machine", min=1, short="-b")
    output: Path | None = option(
        None,
        help="Folder for results and figures.",
        panel="Output",
        short="-o",
        show_default="the run directory, or beside the weights",
    )


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ModelArgument, OverwriteOptions):
    """What is embedded, and where the embeddings go."""

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


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelPath, OverwriteOptions):
    """Where the weights go."""

    output: Path | None = option(
        None,
        help="File to write (.safetensors, which is added to a name without it).",
        panel="Output",
        short="-o",
        complete=complete_local_paths,
        show_default="export/model.safetensors in the run directory",
    )


@dataclass(frozen=True, kw_only=True)
class NetworkExportOptions(ExportOptions, ModelArgument):
    """Which checkpoint of a network on images goes where, and whether as ONNX too."""

    onnx: bool = option(
        False,
        help="Also write the network that embeds as ONNX, checked against torch.",
        panel="Output",
    )
