"""Option groups that several commands share: fields of their configurations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.candidates import complete_backbones, complete_datasets, complete_devices, complete_own_runs, complete_runs
from wasskit.cluster.options import SubmitOptions
from wasskit.config import OptionGroup, argument, option
from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean


@dataclass(frozen=True, kw_only=True)
class OneDeviceOptions(OptionGroup):
    """The device to compute on."""

    device: str = option(
        "auto", help="Device: auto, cpu, cuda, cuda:N, mps.", panel="Machine", runtime=True,
        complete=complete_devices, metavar="DEVICE",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(OneDeviceOptions):
    """Where and how to compute, on one process or several."""

    nproc: int = option(1, help="Processes on this machine, one per device.", panel="Machine", min=1, runtime=True)
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", help="Arithmetic of the networks (bf16, fp16: autocast; fp16 with scaled gradients).", panel="Machine"
    )


@dataclass(frozen=True, kw_only=True)
class MachinesOptions(OptionGroup):
    """Several machines that train as one, and what becomes of a training when one of its processes dies."""

    nnodes: int = option(
        1, help="Machines that train together, --nproc processes on each: call the same on all.", panel="Machine",
        min=1, runtime=True,
    )  # fmt: skip
    rdzv_endpoint: str | None = option(
        None, help="Where they meet: one of them and a free port of it.", panel="Machine", metavar="HOST:PORT",
        transient=True, show_default="the first machine of the SLURM job",
    )  # fmt: skip
    max_restarts: int = option(
        0, help="How often to go on from the last checkpoint when a process has died.", panel="Machine", min=0,
        transient=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingDeviceOptions(SubmitOptions, MachinesOptions, DeviceOptions):
    """Where and how a training computes."""

    tf32: bool = option(
        False, help="On NVIDIA GPUs, products of float32 matrices in TF32, as torch takes convolutions in any case: "
        "faster, with 10 bits after the point instead of 23. Losses and conjugates are computed in full.",
        panel="Machine",
    )  # fmt: skip

    @property
    def ranks(self) -> int:
        """Processes of the training, on all machines."""
        return self.nproc * self.nnodes


def sync_norm_option(former: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """``--sync-bn`` of a method with batch norm."""
    return option(
        None, help="Batch normalisation over the batch of all processes, so that N processes train as one.",
        panel="Machine", show_default="on; off where processes share a GPU", former=former or {}, former_default=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunFolderOptions(OptionGroup):
    """The run directory, by its path or by its name."""

    run_dir: Path | None = option(
        None, help="Run directory.", panel="Run", transient=True, complete=complete_own_runs,
        show_default="runs/<method>/<name>",
    )  # fmt: skip
    name: str | None = option(
        None, help="Name of the run directory under runs/<method>/.", panel="Run", transient=True,
        show_default="from the settings",
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        if self.run_dir is not None and self.name is not None:
            raise UserError("--run-dir and --name both say where the run goes: give one of them.")
        if self.name is not None and (not self.name or Path(self.name).is_absolute() or ".." in Path(self.name).parts):
            raise UserError(f"--name: {self.name!r} is not a folder name; use --run-dir for a path of your own.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunFolderOptions):
    """A run directory, its seed, and how to go on with it."""

    resume: str | None = option(
        None, help="Go on as if never stopped: alone, from the run directory's last checkpoint; or from a run "
        "directory, a checkpoint, or `previous`.", panel="Run", transient=True, complete=complete_own_runs,
        metavar="[PATH]", optional_value="last",
    )  # fmt: skip
    requeue: bool = option(
        False, help="Resume if there is a checkpoint, start otherwise (for preemptible jobs).", panel="Run",
        transient=True, flag="--requeue",
    )  # fmt: skip
    seed: int = option(0, help="Seed of everything random.", panel="Run", min=0, max=2**31 - 1)
    checkpoint_every: int = option(
        1, help="Epochs between checkpoints (evaluations for step-based runs).", panel="Run", min=1, runtime=True
    )
    log_every: int = option(20, help="Steps between logged losses.", panel="Run", min=1)
    tensorboard: bool = option(True, help="Write TensorBoard events.", panel="Run", runtime=True)
    track: tuple[Literal["mlflow", "wandb", "trackio"], ...] = option(
        (), help="Trackers that record the metrics too, in their local stores (wandb offline).", panel="Run",
        runtime=True, metavar="mlflow,wandb,trackio",
    )  # fmt: skip

    @property
    def trackers(self) -> tuple[str, ...]:
        """All trackers, TensorBoard among them."""
        return (*(("tensorboard",) if self.tensorboard else ()), *self.track)


@dataclass(frozen=True, kw_only=True)
class DataPlaceOptions(OptionGroup):
    """Where data sets are."""

    data_root: Path | None = option(
        None, help="Folder that holds the data sets.", panel="Data", runtime=True,
        show_default="$WASSKIT_DATA, else data",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataFolderOptions(DataPlaceOptions):
    """Where data sets are, and whether they may be fetched."""

    download: bool = option(
        False, help="Download the data set if it is not there.", panel="Data", transient=True, flag="--download"
    )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(OptionGroup):
    """How images are read."""

    corrupt: Literal["refuse", "skip"] = option(
        "refuse", help="What to do with images that cannot be read (they are named and counted).", panel="Data"
    )
    workers: int | None = option(
        None, help="Loader processes for sets that do not fit in memory.", panel="Data", min=0, runtime=True,
        show_default="by the number of cores",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataRootOptions(ReadingOptions, DataFolderOptions):
    """Where data sets are and how they are read."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(OptionGroup):
    """Which data set, and at which size."""

    dataset: str = option(
        "digits", help="Data set (`wasskit info` lists them).", panel="Data", complete=complete_datasets, metavar="NAME"
    )
    image_size: int | None = option(
        None, help="Side of the images in pixels.", panel="Data", min=4, show_default="the data set's"
    )

    def validate(self) -> None:
        super().validate()
        from wasskit.data.catalog import dataset_names

        known = dataset_names()
        if self.dataset not in known:
            advice = did_you_mean(self.dataset, known)
            raise UserError(f"--dataset: {self.dataset!r} is not one of {', '.join(known)}.{advice}")


@dataclass(frozen=True, kw_only=True)
class DataOptions(DataRootOptions, DatasetOptions):
    """The data set."""


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(OptionGroup):
    """The network below the method."""

    backbone: str | None = option(
        None, help="Backbone: tiny, resnet18, resnet50, ... or any timm name.", panel="Model",
        complete=complete_backbones, metavar="NAME", show_default="by the size of the images",
    )  # fmt: skip
    pretrained: bool = option(False, help="Start from the library's pretrained weights.", panel="Model")
    weights: Path | None = option(None, help="Start from local weights (.pt, .pth, .safetensors).", panel="Model")
    stem: Literal["auto", "small", "small-pad2", "standard"] = option(
        "auto", help="First layers: small is 3x3, stride 1, no pooling.", panel="Model"
    )

    def validate(self) -> None:
        super().validate()
        if self.pretrained and self.weights is not None:
            raise UserError("--pretrained and --weights both say where the weights come from: give one of them.")


@dataclass(frozen=True, kw_only=True)
class CadenceOptions(OptionGroup):
    """How often a training by epochs updates and evaluates."""

    accumulate: int = option(
        1, help="Micro-batches per step; whole-batch loss terms see one micro-batch.", panel="Optimisation", min=1
    )
    eval_every: int = option(1, help="Epochs between evaluations.", panel="Run", min=1)


@dataclass(frozen=True, kw_only=True)
class EpochOptions(OptionGroup):
    """Length of a training by epochs."""

    epochs: int = option(100, help="Passes over the training set.", panel="Optimisation", min=1)
    batch_size: int = option(128, help="Images per step, over all processes.", panel="Optimisation", min=1, short="-b")


@dataclass(frozen=True, kw_only=True)
class LoopOptions(CadenceOptions, EpochOptions):
    """Length of a training and how its steps are taken."""

    channels_last: bool = option(True, help="Channels-last memory format for images.", panel="Machine", runtime=True)
    compile: bool = option(False, help="Compile the model with torch.compile.", panel="Machine", runtime=True)


@dataclass(frozen=True, kw_only=True)
class LearningRateOptions(OptionGroup):
    """The learning rate."""

    lr: float = option(0.1, help="Learning rate (peak).", panel="Optimisation", above=0)


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(OptionGroup):
    """The optimiser but for its learning rate, which some methods choose by what they learn from."""

    optimizer: Literal["sgd", "adam", "adamw", "lars"] = option("sgd", help="Optimiser.", panel="Optimisation")
    momentum: float = option(0.9, help="Momentum of SGD and LARS.", panel="Optimisation", min=0, below=1)
    weight_decay: float = option(0.0, help="Weight decay.", panel="Optimisation", min=0)
    clip_norm: float | None = option(None, help="Largest norm of the gradient.", panel="Optimisation", above=0)
    warmup_epochs: int = option(0, help="Epochs of linear warm-up of the learning rate.", panel="Optimisation", min=0)


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(UpdateOptions, LearningRateOptions):
    """The optimiser."""


@dataclass(frozen=True, kw_only=True)
class OverwriteOptions(OptionGroup):
    """Whether files that are there already may be replaced.

    A command refuses to replace any file outside the folders that are wasskit's own: a run directory, whose results are
    made again by measuring again, and ``plots/``.
    """

    overwrite: bool = option(
        False, help="Replace files that are there already.", panel="Output", transient=True, flag="--overwrite",
        former="force",
    )  # fmt: skip

    def refuse_existing(self, *paths: Path, flag: str = "--output") -> None:
        """Refuse to write where something is already, unless that was asked for.

        Args:
            paths: the files that are going to be written.
            flag: the option that names another place.

        Raises:
            UserError: names the first of them that exists, or that is a folder or a device.
        """
        for path in paths:
            if path.exists() and not path.is_file():
                raise UserError(f"{path} is not a file that can be replaced: choose another {flag}.")
            if not self.overwrite and os.path.lexists(path):
                raise UserError(f"{path} exists already: choose another {flag}, or replace it by --overwrite.")


@dataclass(frozen=True, kw_only=True)
class RunArgument(OptionGroup):
    """The run a command works on."""

    run: Path = argument(help="Run directory of a training.", complete=complete_runs, metavar="RUN")
