"""``wasskit mrl adapt-sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.plugins.mrl.adapt.options import AdaptOptions
from wasskit.plugins.mrl.options import JobOptions, axes_argument


@dataclass(frozen=True, kw_only=True)
class MrlAdaptSweep(JobOptions, AdaptOptions):
    """Options of ``wasskit mrl adapt-sweep``."""

    axes: tuple[str, ...] = axes_argument("mrl adapt", AdaptOptions)
    grid: tuple[str, ...] = option((), help="Further axes, for recipes.", panel="Method", metavar="AXES")
    train: Path | None = option(
        None, help="Vectors (N, D) to train on, the TRAIN of `mrl adapt`.", panel="Data",
        complete=complete_local_paths, show_default="the 64 pixels of digits",
    )  # fmt: skip


def body(config: MrlAdaptSweep, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.adapt.data import vector_width
    from wasskit.plugins.mrl.grid import ADAPTORS
    from wasskit.plugins.mrl.sweeping import run_grid, whole_grid

    config, axes = whole_grid(config, ADAPTORS)
    if "method" in axes and config.learns != "labels":
        raise UserError("method: the published comparison learns from labels: give --labels.")
    data = "digits" if config.train is None else config.train.stem
    return run_grid(
        config, axes, invocation,
        data=f"{data}/{'validation' if config.train is not None and config.test is None else 'test'}",
        default=f"adapt-sweep-{data}", width=lambda training: vector_width(training.train), subject=ADAPTORS,
    )  # fmt: skip


command = Command(
    "mrl adapt-sweep",
    MrlAdaptSweep,
    body,
    "Train a grid of adaptors and compare them.\n\n"
    "As `mrl sweep`, over the options of `mrl adapt`: `method` with the methods of the published comparison, "
    "`seed`, or any other. With several seeds every row is tested against the first by a paired t-test over the "
    "seeds at each dimension.",
    (
        "wasskit mrl adapt-sweep method=matryoshka,mwrl seed=0,1,2 --wasserstein-weight 1",
        "wasskit mrl adapt-sweep --train train.npy --labels labels.npy --test test.npy --test-labels test_labels.npy "
        "wasserstein_weight=0,0.1,1 seed=0,1,2,3,4",
    ),
)
