"""``wasskit mrl baseline``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wasskit.cluster.request import seeds_of
from wasskit.config import Command, Invocation, option
from wasskit.plugins.mrl.commands.sweep import GridOptions


@dataclass(frozen=True, kw_only=True)
class MrlBaseline(GridOptions):
    """Options of ``wasskit mrl baseline``."""

    seeds: tuple[int, ...] = option(
        (), help="Train with each of these seeds.", panel="Run", min=0, show_default="the one of --seed"
    )


def body(config: MrlBaseline, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.sweeping import run_grid
    from wasskit.plugins.mrl.task import backbone_width

    if config.machine.array and not config.seeds:
        config = replace(config, seeds=tuple(seeds_of(config.machine.array)))
    axes: dict[str, list[Any]] = {"method": ["independent"], "seed": sorted(set(config.seeds)) or [config.run.seed]}
    return run_grid(
        config, axes, invocation, data=f"{config.data.dataset}/test", width=backbone_width,
        default=f"baseline-{config.data.dataset}",
    )  # fmt: skip


command = Command(
    "mrl baseline",
    MrlBaseline,
    body,
    "Train an independent network for each dimension.\n\n"
    "The comparison of the paper: the same network with an embedding of each dimension alone and one "
    "classifier. At the backbone's own width the features are the embedding. The same command resumes what "
    "was interrupted.",
    ("wasskit mrl baseline --jobs 2", "wasskit mrl baseline --dims 2,8,32 --seeds 0,1,2"),
)
