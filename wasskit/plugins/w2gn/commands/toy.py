"""``wasskit w2gn toy``: measures in the plane, or any two clouds of points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, option
from wasskit.data.catalog import MEASURES
from wasskit.plugins.w2gn.options import SamplingOptions, StepOptions, TransportOptions


def complete_measures(typed: str) -> Iterable[str]:
    """Names of measures and paths of files."""
    return [name for name in MEASURES if name.startswith(typed)] + list(complete_local_paths(typed))


_LONGER = ("49gaussians", "100gaussians", "swissroll")
"""Targets that want more steps than the default, each with a recipe."""


@dataclass(frozen=True, kw_only=True)
class W2gnToy(TransportOptions):
    """Options of ``wasskit w2gn toy``."""

    training: StepOptions = StepOptions(steps=1000)
    sampling: SamplingOptions = SamplingOptions()

    target: str = option(
        "8gaussians",
        help="Target measure: " + ", ".join(MEASURES) + ", or a file of points (N, D), .npy, .csv, ....",
        panel="Data",
        complete=complete_measures,
        metavar="NAME|PATH",
    )
    source: str = option(
        "normal", help="Source measure, likewise.", panel="Data", complete=complete_measures, metavar="NAME|PATH"
    )
    whiten: bool | None = option(
        None,
        help="Give the target mean 0 and covariance the identity, as published.",
        panel="Data",
        show_default="for named targets; points of a file stay where they are",
    )
    test_size: int = option(4096, help="Points of each measure in evaluations and figures.", panel="Run", min=100)


def body(config: W2gnToy, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.core.task import fitted_transport
    from wasskit.plugins.w2gn.experiments.toy import Toy
    from wasskit.plugins.w2gn.fitting import conclude, samplers, train
    from wasskit.training.session import training_session

    with training_session(config, invocation, name=Path(config.target).stem) as session:
        config = session.config
        toy = Toy(
            config.source, config.target, whiten=config.whiten, test_size=config.test_size, seed=config.run.seed,
            device=session.device,
        )  # fmt: skip
        x, y = samplers(session, toy.source, toy.target)
        trained = train(
            session, fitted_transport(config, toy.source.dim, x, y), x, y, toy.scores, monitor="test/energy_forward",
            about={"source": config.source, "target": config.target},
        )  # fmt: skip
        warn_of_missed_modes(config, trained.final)
        longer = config.target in _LONGER and config.training.steps <= W2gnToy.training.steps
        another = config.target if longer else next(name for name in _LONGER if name != config.target)
        return conclude(
            trained,
            toy.report(trained.transport, trained.final, trained.history()),
            ("apply", trained.map_path, "POINTS.npy"),
            ("toy", "--recipe", f"w2gn/toy-{another}"),
        )


def warn_of_missed_modes(config: W2gnToy, final: Mapping[str, float]) -> None:
    """Say which modes are missed, and what to try."""
    from wasskit import console

    modes = final.get("test/modes_of", 0)
    missed = int(modes - final.get("test/modes", 0))
    if missed:
        console.warn(
            f"{missed} of {modes:.0f} modes {'gets' if missed == 1 else 'get'} less than half the share of points: "
            f"train longer (--steps {3 * config.training.steps}) or wider (--hidden 256,256,128)."
        )


command = Command(
    "w2gn toy",
    W2gnToy,
    body,
    "Map a normal to a mixture, a spiral or any cloud of points.\n\n"
    "Trains both maps, draws them, and measures how far "
    "the mapped points are from the target by the energy distance. Two .npy files give maps between any two clouds.",
    (
        "wasskit w2gn toy",
        "wasskit w2gn toy --target swissroll --steps 4000",
        "wasskit w2gn toy --source a.npy --target b.npy",
    ),
)
