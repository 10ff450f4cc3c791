"""From a pair of samplers to a trained pair of maps in a run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wasskit import console
from wasskit.config import part
from wasskit.data.toy import Measure
from wasskit.distributed.group import is_main
from wasskit.ot.precision import full_precision
from wasskit.plugins.w2gn.core.dual import Kept, better_of
from wasskit.plugins.w2gn.core.evaluation import flat
from wasskit.plugins.w2gn.core.stages import FirstStage, Points, TwoStages
from wasskit.plugins.w2gn.core.task import NO_NEWTON, Draw, Scores, TransportTask, dense_transport, pair_source
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.maps import Maps, plain_coordinates, save_map
from wasskit.plugins.w2gn.options import EnsembleOptions, GaussNewtonOptions, SamplingOptions, TransportOptions
from wasskit.report import Report, finish
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.run import RunDirectory
from wasskit.training.series import over_steps
from wasskit.training.session import Session
from wasskit.training.stepper import Updates
from wasskit.training.task import Source
from wasskit.training.trainer import Summary

FRESH = -(1 << 40)
"""The number of the batch of which fresh points are: no other is made with it."""


ONE_PAIR = EnsembleOptions()


class Trained(NamedTuple):
    """A finished training: its account, the maps that are kept, where they were saved, its run, and where it began at
    the Gaussian map, whether it is that which is kept and what the training gained over it.
    """

    summary: Summary
    transport: W2GN
    map_path: Path
    run: RunDirectory
    kept: Kept | None = None

    @property
    def final(self) -> dict[str, float]:
        """The last scores, as ``split/metric``."""
        return self.summary.final

    def history(self, split: str = "test") -> dict[str, dict[int, float]]:
        """The metrics of a split, as ``split/metric``, over the steps; none on ranks other than 0."""
        return over_steps(self.run.metrics(split)) if is_main() else {}


def samplers(session: Session[Any], source: Measure, target: Measure) -> tuple[Draw, Draw]:
    """Batches of both measures by number, independent of each other, as the session's options ask for."""
    config = session.config
    sampling = part(config, SamplingOptions).sampling
    x, y = (
        sampler(measure, config.run.seed, side, sampling, session.device)
        for measure, side in ((source, "source"), (target, "target"))
    )
    return x, y


def sampler(measure: Measure, seed: int, side: str, scheme: Any, device: torch.device) -> Draw:
    """Batches of a measure by number, independent of those of the other side."""

    def draw(number: int, count: int, rows: range | None = None) -> Tensor:
        return measure.draw(count, seed, side, number, scheme=scheme, device=device, rows=rows)

    return draw


def train(
    session: Session[Any],
    transport: W2GN,
    x: Draw,
    y: Draw,
    scores: Scores,
    *,
    monitor: str | None = None,
    about: Mapping[str, Any] | None = None,
    fresh: Callable[[], Points] | None = None,
    newton: GaussNewtonOptions = NO_NEWTON,
    ensemble: EnsembleOptions = ONE_PAIR,
) -> Trained:
    """Train the potentials as the session's options say, and save the map: of a run from the Gaussian start the better
    of start and end (`wasskit.plugins.w2gn.core.dual`).

    Args:
        x, y: draw batches of the two measures on the session's device, by number.
        scores: of the averaged potentials.
        about: what the saved map's header says besides its architecture.
        fresh: points of both measures that the training does not see; None: drawn.
        newton: the steps after those of Adam.
        ensemble: how long the members of means are trained each on its own.
    """
    options: TransportOptions = session.config
    pretrain = pretraining(options)
    task = TransportTask(
        transport, options.training, scores, pretrain=pretrain, monitor=monitor, newton=newton,
        apart=ensemble.steps_apart(options.training.steps),
    )  # fmt: skip
    steps = options.training.steps + pretrain
    source = pair_source(x, y, options.training.batch_size, late=(steps, newton.gauss_newton_points))
    summary = fit(session, task, source, steps + newton.gauss_newton_steps, transport=transport)
    count = min(4096, max(256, (1 << 20) // max(x(FRESH, 1).numel(), 1)))
    points = fresh or (lambda: Points(x(FRESH, count), y(FRESH, count)))
    return saved(session, summary, task.averaged.merged(), about, scores, points)


def train_staged(
    session: Session[Any],
    stage: FirstStage,
    dim: int,
    scores: Scores,
    *,
    first_steps: int,
    floor: float,
    about: Mapping[str, Any] | None = None,
) -> Trained:
    """Train the first stage, then potentials of dimension ``dim`` on its points, and save the map.

    Args:
        first_steps: steps of the first stage; 0 where its network is ready.
        floor: see `wasskit.ot.gaussian.balance`.
        about: what the saved map's header says besides its architecture.
    """
    options: TransportOptions = session.config
    transport = dense_transport(options, dim, lambda: plain_coordinates(dim))
    pretrain = pretraining(options)
    second = TransportTask(transport, options.training, scores, pretrain=pretrain, begin=first_steps)
    task = TwoStages(stage, second, first_steps, gaussian_start=options.potentials.start == "gaussian", floor=floor)
    source = task.source(options.run.seed, options.training.batch_size)
    summary = fit(session, task, source, first_steps + pretrain + options.training.steps, transport=transport)
    task.points()
    return saved(session, summary, second.averaged, about, scores, stage.fresh)


def fit(session: Session[Any], task: Any, source: Source, steps: int, *, transport: W2GN) -> Summary:
    """Run the loop for ``steps`` steps, with evaluations and checkpoints at the cadence of the options.

    The task is left in evaluation mode: what follows only uses its networks.
    """
    options: TransportOptions = session.config
    every = options.training.eval_every or max(steps // 10, 1)
    if options.training.compile:
        own_graphs = session.device.type == "cuda" and not options.training.cuda_graph
        transport.compile(mode="reduce-overhead" if own_graphs else "default")
    trainer = session.trainer(
        task,
        source,
        cadence=Cadence(
            steps=steps,
            eval_every=every,
            checkpoint_every=options.run.checkpoint_every * every,
            log_every=options.run.log_every,
        ),
        updates=Updates(precision=options.machine.precision, cuda_graph=options.training.cuda_graph),
    )
    summary = trainer.fit(resume=session.checkpoint)
    task.eval()
    return summary


def saved(
    session: Session[Any],
    summary: Summary,
    maps: W2GN,
    about: Mapping[str, Any] | None,
    scores: Scores,
    fresh: Callable[[], Points],
) -> Trained:
    """The maps that are kept, saved in the run directory. Called by all ranks."""
    maps, kept = maps.to(session.device).eval(), None
    if decides(session.config):
        maps, kept = better_of(maps, *fresh())
        if not kept.trained:
            with (
                torch.no_grad(), preserved_rng(session.device, session.config.run.seed),
                full_precision(next(maps.parameters())),
            ):  # fmt: skip
                summary = dataclasses.replace(summary, final=flat(scores(maps)))
        session.run.write_summary(summary.as_dict() | kept.as_dict())
        console.log(kept.note())
    return Trained(summary, maps, written(session, maps, about), session.run, kept)


def written(session: Session[Any], maps: Maps, about: Mapping[str, Any] | None) -> Path:
    """Where the maps are saved in the run directory."""
    path = session.run.path / "map.safetensors"
    if is_main():
        save_map(path, maps, command=session.run.command, **(about or {}))
    return path


def pretraining(options: TransportOptions) -> int:
    """Steps of training to the identity before the first of the map."""
    return options.potentials.pretrain_steps if options.potentials.start == "pretrain" else 0


def decides(options: TransportOptions) -> bool:
    """Whether the better of start and end is kept."""
    return options.potentials.start == "gaussian" and options.potentials.keep == "better"


def conclude(trained: Trained, report: Report, *following: tuple[object, ...]) -> dict[str, Any]:
    """Write and print a report of the maps, say where they lie; the command's result.

    Args:
        following: commands to try next: of each the subcommand of `w2gn` and its arguments.
    """
    result = finish(report, trained.run.path)
    console.result(f"Map: {console.escape(str(trained.map_path))}")
    if following:
        next_steps(*following)
    decided = {} if trained.kept is None else trained.kept.as_dict()
    places = {"map": str(trained.map_path), "run": str(trained.run.path)}
    return trained.summary.as_dict() | result | decided | places


def next_steps(*commands: tuple[object, ...]) -> None:
    """The commands to try next: of each the subcommand of `w2gn` and its arguments."""
    console.log("Next:")
    for name, *arguments in commands:
        console.log(f"  {console.command_line(f'w2gn {name}', *arguments)}")
