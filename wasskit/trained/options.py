"""Options of the commands on a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasskit.candidates import complete_datasets, complete_local_paths, complete_models
from wasskit.config import CommandOptions, OptionGroup, argument, group, option
from wasskit.options import DataRootOptions, DeviceOptions, OverwriteOptions, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class ModelArgument(OptionGroup):
    """The trained model a command works with."""

    model: Path = argument(
        help="Run directory, checkpoint (.pt) or exported weights (.safetensors).",
        complete=complete_models,
        metavar="MODEL",
    )
    checkpoint: Literal["last", "best"] = option("last", help="Which checkpoint of a run directory.", panel="Model")


@dataclass(frozen=True, kw_only=True)
class ModelDataOptions(CommandOptions):
    """The trained model and the data set it is measured on."""

    trained: ModelArgument
    data: DataRootOptions = DataRootOptions()
    machine: DeviceOptions = DeviceOptions()
    files: OverwriteOptions = OverwriteOptions()
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
class EmbedOptions(CommandOptions):
    """What is embedded, and where the embeddings go."""

    trained: ModelArgument
    reading: ReadingOptions = ReadingOptions()
    machine: DeviceOptions = DeviceOptions()
    files: OverwriteOptions = OverwriteOptions()
    images: Path = argument(
        help="Folder of images (with class folders or without), an image, or a CSV of path,label; a file of vectors "
        "where the model takes these.",
        complete=complete_local_paths,
        metavar="IMAGES",
    )
    output: Path = option(
        Path("embeddings.npy"), help="File to write (.npy); the paths go into a .csv beside it.", panel="Output",
        short="-o", complete=complete_local_paths,
    )  # fmt: skip
    dtype: Literal["float32", "float16"] = option("float32", help="Type of the numbers.", panel="Output")
    batch_size: int = option(256, help="Images per batch.", panel="Machine", min=1, short="-b")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CommandOptions):
    """Where the weights go."""

    trained: ModelArgument
    files: OverwriteOptions = OverwriteOptions()
    machine: DeviceOptions = group(DeviceOptions(), hidden=True)
    output: Path | None = option(
        None, help="File to write (.safetensors, which is added to a name without it).", panel="Output", short="-o",
        complete=complete_local_paths, show_default="export/model.safetensors in the run directory",
    )  # fmt: skip
    onnx: bool = option(
        False, help="Also write the network that embeds as ONNX, checked against torch.", panel="Output"
    )
