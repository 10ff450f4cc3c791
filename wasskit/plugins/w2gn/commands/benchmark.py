"""``wasskit w2gn benchmark``: pairs with a known map that is not linear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, changed, group, option, same, values_of
from wasskit.options import DataPlaceOptions
from wasskit.plugins.w2gn.experiments.rule import rule
from wasskit.plugins.w2gn.options import (
    EnsembleOptions,
    GaussNewtonOptions,
    ObjectiveOptions,
    PotentialOptions,
    SamplingOptions,
    StepOptions,
    TransportOptions,
)

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class RuledObjectiveOptions(ObjectiveOptions):
    """The objective; how far conjugates are solved follows from the dimension."""

    refine_evaluations: int | None = same(ObjectiveOptions, "refine_evaluations", None)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class RuledStepOptions(StepOptions):
    """Steps whose number and size follow from the dimension."""

    steps: int | None = same(StepOptions, "steps", None)  # type: ignore[assignment]
    batch_size: int | None = same(StepOptions, "batch_size", None)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class RuledGaussNewtonOptions(GaussNewtonOptions):
    """Steps of second order, whose number follows from the dimension."""

    gauss_newton_steps: int | None = same(GaussNewtonOptions, "gauss_newton_steps", None)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class RuledEnsembleOptions(EnsembleOptions):
    """Members whose number follows from the dimension."""

    members: int | None = same(EnsembleOptions, "members", None)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class W2gnBenchmark(TransportOptions):
    """Options of ``wasskit w2gn benchmark``. What is left open follows from the dimension by one rule."""

    objective: RuledObjectiveOptions = group(
        RuledObjectiveOptions(), show_default={"refine_evaluations": "by the dimension: 8 at 2, 14 at 16, 20 at 128"}
    )
    training: RuledStepOptions = group(
        RuledStepOptions(lr=1e-2),
        show_default={
            "steps": "by the dimension: what 17 minutes of one core hold, as 12200 at 2, 10000 at 4, 3700 at 128",
            "batch_size": "1024, and beyond 64 dimensions fewer: 512 at 128",
        },
    )
    potentials: PotentialOptions = group(
        PotentialOptions(hidden=()),
        help={
            "hidden": "Widths of the hidden layers; by default 64, 64, 32 at 2 D; beyond, at least 128, 128, 64, and "
            "2 D, 2 D, D."
        },
    )
    ensemble: RuledEnsembleOptions = group(
        RuledEnsembleOptions(),
        show_default={"members": "by the dimension: 2 from 3 to 16, else 1; 1 with --steps or --gauss-newton-steps"},
    )
    newton: RuledGaussNewtonOptions = group(
        RuledGaussNewtonOptions(), show_default={"gauss_newton_steps": "by the dimension: 60 at 2, 0 beyond"}
    )
    sampling: SamplingOptions = SamplingOptions()

    dim: tuple[int, ...] = option((2,), help="Dimensions, one run each.", panel="Data", min=2, max=4096)
    pairs: Path | None = option(
        None,
        help="Folder of benchmark pairs (mix3tomix10_D.npz) or of the published checkpoints (D_v1.pt, D_v2.pt), or one "
        ".npz file.",
        panel="Data",
        complete=complete_local_paths,
        show_default="w2benchmark in the data root; made from random networks where there is none",
    )
    place: DataPlaceOptions = DataPlaceOptions()
    test_size: int = option(4096, help="Test points, where the pair brings none.", panel="Run", min=100)

    def settled(self, dim: int) -> Self:
        """With the settings for pairs in ``dim`` dimensions in place of those that are open."""
        now = values_of(self)
        left_open = {name for name, value in now.items() if value in (None, ())}
        # The steps of second order belong to the rule's own networks and number of steps, and need solved conjugates.
        own = {"hidden", "steps"} <= left_open and now["rank"] == PotentialOptions().rank
        second_order = own and now["refine"] != "none"
        # So do several members, and they have no steps of second order.
        members = now["members"]
        if members is None and ("steps" not in left_open or now["gauss_newton_steps"]):
            members = 1
        settings = rule(dim, second_order=second_order, members=members)
        return changed(self, **{name: value for name, value in settings.items() if name in left_open})


def body(config: W2gnBenchmark, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.catalog import data_root
    from wasskit.plugins.w2gn.experiments.benchmark import PUBLISHED, find_pair, made_pair
    from wasskit.plugins.w2gn.series import run_series

    def pair(settled: Any, dim: int) -> Any:
        place = settled.pairs or data_root(settled.place.data_root) / "w2benchmark"
        found = find_pair(place, dim, settled.test_size, needed=settled.pairs is not None)
        if found is not None:
            return found
        console.log(
            f"There is no pair of dimension {dim} in {console.escape(str(place))}: one is made from random networks. "
            "The published ones come from the repository of the continuous Wasserstein-2 benchmark; give their folder "
            "by --pairs."
        )
        return made_pair(dim, settled.run.seed, settled.test_size)

    return run_series(config, invocation, pair, published=PUBLISHED, base_name="benchmark")


command = Command(
    "w2gn benchmark",
    W2gnBenchmark,
    body,
    "Pairs with a known map that is not linear, beside the published solvers.\n\n"
    "Trains both maps on the continuous "
    "Wasserstein-2 benchmark (a mixture of three Gaussians and its image under the gradient of a convex network) and "
    "gives unexplained variance in percent and cosine, forward and inverse.",
    (
        "wasskit w2gn benchmark --dim 2",
        "wasskit w2gn benchmark --dim 2,4,16,64 --data-root ~/data",
        "wasskit w2gn benchmark --pairs Wasserstein2Benchmark/benchmarks/Mix3toMix10 --dim 8",
    ),
)
