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
    override,
)


@dataclass(frozen=True, kw_only=True)
class ModelArgument(DeviceOptions, OverwriteOptions, CommandOptions):
    """The trained model a command works with."""

    model: Path = argument(
        help="Run directory, checkpoint (.pt) or exported weights (.safetensors).",
        complete=complete_models,
        metavar="MODEL",
    )
    checkpoint: Literal["last", "best"] = option(
        "last", help="Which checkpoint of a run directory.", panel="Model"
    )


@dataclass(frozen=True, kw_only=True)
class ModelDataOptions(ModelArgument, DataRootOptions):
    """The trained model and the data set it is measured on."""

    dataset: str | None = option(
        None, help="Data set.", panel="Data", metavar="NAME", complete=complete_datasets,
        show_default="the one it was trained on",
    )  # fmt: skip
    batch_size: int = option(256, help="Images per batch.", panel="Machine", min=1, short="-b")
    output: Path | None = option(
        None, help="Folder for results and figures.", panel="Output", short="-o",
        show_default="the run directory, or beside the weights",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ModelArgument):
    """What is embedded, and where the embeddings go."""

    images: Path = argument(
        help="Folder of images (with class folders or without), an image, or a CSV of path,label.",
        complete=complete_local_paths,
        metavar="IMAGES",
    )
    output: Path = option(
        Path("embeddings.npy"), help="File to write (.npy); the paths go into a .csv beside it.", panel="Output",
        short="-o", complete=complete_local_paths,
    )  # fmt: skip
    dtype: Literal["float32", "float16"] = option("float32", help="Type of the numbers.", panel="Output")
    corrupt: Literal["refuse", "skip"] = override(DataRootOptions, "corrupt", "refuse")
    batch_size: int = override(ModelDataOptions, "batch_size", 256)
    workers: int | None = override(DataRootOptions, "workers", None)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelArgument):
    """Where the weights go."""

    output: Path | None = option(
        None, help="File to write (.safetensors, which is added to a name without it).", panel="Output", short="-o",
        complete=complete_local_paths, show_default="export/model.safetensors in the run directory",
    )  # fmt: skip
    onnx: bool = option(
        False, help="Also write the network that embeds as ONNX, checked against torch.", panel="Output"
    )
    device: str = override(DeviceOptions, "device", "auto", hidden=True)
    nproc: int = override(DeviceOptions, "nproc", 1, hidden=True)
    precision: Literal["fp32", "bf16", "fp16"] = override(DeviceOptions, "precision", "fp32", hidden=True)
