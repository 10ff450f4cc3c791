"""``wasskit mrl sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.mrl.options import JobOptions, TrainingOptions, axes_argument


@dataclass(frozen=True, kw_only=True)
class GridOptions(JobOptions, TrainingOptions):
    """Options of commands that train networks many times."""


@dataclass(frozen=True, kw_only=True)
class MrlSweep(GridOptions):
    """Options of ``wasskit mrl sweep``."""

    axes: tuple[str, ...] = axes_argument("mrl train", TrainingOptions)
    grid: tuple[str, ...] = option((), help="Further axes, for recipes.", panel="Method", metavar="AXES")


def body(config: MrlSweep, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.sweeping import run_grid, whole_grid
    from wasskit.plugins.mrl.task import backbone_width

    config, axes = whole_grid(config)
    return run_grid(
        config, axes, invocation, data=f"{config.data.dataset}/test", width=backbone_width,
        default=f"sweep-{config.data.dataset}",
    )  # fmt: skip


command = Command(
    "mrl sweep",
    MrlSweep,
    body,
    "Train a grid of settings and tabulate it.\n\n"
    "Each combination is a run directory of `mrl train`. The same command resumes what was interrupted "
    "and keeps what is finished. An axis is any option of `mrl train` with its values, lists written "
    "with colons (dims=8:16,8:64), or `method` with the methods of the published comparison: mwrl, "
    "matryoshka (lambda 0), wasserstein (alpha 0), independent (a network for each dimension). Values "
    "over the axis `seed` become means and deviations.",
    (
        "wasskit mrl sweep wasserstein_weight=0.1,1,10 beta=0.1,1 --jobs 2",
        "wasskit mrl sweep method=mwrl,matryoshka,wasserstein,independent seed=0,1,2,3,4",
    ),
)
