"""From a pair of samplers to a trained pair of maps in a run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wasskit import console
from wasskit.data.toy import Measure
from wasskit.distributed.group import is_main
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.core.stages import FirstStage, TwoStages
from wasskit.plugins.w2gn.core.task import Draw, Evaluate, TransportTask, objective_settings, pair_source
from wasskit.plugins.w2gn.maps import plain_coordinates, save_map
from wasskit.plugins.w2gn.options import TransportOptions
from wasskit.system.files import replace_file
from wasskit.training.cadence import Cadence
from wasskit.training.session import Session
from wasskit.training.stepper import Updates
from wasskit.training.task import Source
from wasskit.training.trainer import Summary


class Trained(NamedTuple):
    """A finished training: its account, its maps (the averaged weights), and where they were saved."""

    summary: Summary
    transport: W2GN
    map_path: Path


def sampler(measure: Measure, seed: int, side: str, scheme: Any, device: torch.device) -> Draw:
    """Batches of a measure by number, independent of those of the other side."""

    def draw(number: int, count: int, rows: range | None = None) -> Tensor:
        return measure.draw(count, seed, side, number, scheme=scheme, device=device, rows=rows)

    return draw


def train(
    session: Session[Any],
    transport: W2GN,
    x: Draw | None,
    y: Draw | None,
    evaluate: Evaluate,
    *,
    source: Source | None = None,
    monitor: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trained:
    """Train the potentials as the session's options say, and save the map.

    Args:
        x, y: draw batches of the two measures on the session's device, by number.
        evaluate: metrics by split of the averaged potentials.
        source: batches, instead of ``x`` and ``y``.
        about: what the saved map's header says besides its architecture.
    """
    options: TransportOptions = session.config
    pretrain = options.pretrain_steps if options.start == "pretrain" else 0
    task = TransportTask(transport, options, evaluate, pretrain=pretrain, monitor=monitor)
    if source is None:
        assert x is not None
        assert y is not None
        source = pair_source(x, y, options.batch_size)
    summary = fit(session, task, source, options.steps + pretrain, transport=transport)
    path = session.run.path / "map.safetensors"
    maps = task.averaged
    if is_main():
        save_map(path, maps, command=session.run.command, **(about or {}))
    return Trained(summary, maps.eval(), path)


def train_staged(
    session: Session[Any],
    stage: FirstStage,
    dim: int,
    evaluate: Evaluate,
    *,
    first_steps: int,
    floor: float = 1e-3,
    monitor: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trained:
    """Train the first stage, then potentials of dimension ``dim`` on its points, and save the map.

    Args:
        first_steps: steps of the first stage; 0 where its network is ready.
        floor: see `wasskit.ot.gaussian.balance`.
        about: what the saved map's header says besides its architecture.
    """
    options: TransportOptions = session.config
    start: Any = {"identity": "identity", "pretrain": "plain"}.get(options.start, plain_coordinates(dim))
    transport = W2GN.dense(
        dim,
        hidden=options.hidden,
        rank=options.rank,
        activation=options.activation,
        strong_convexity=options.strong_convexity,
        dropout=options.dropout,
        start=start,
        **objective_settings(options),
    )
    pretrain = options.pretrain_steps if options.start == "pretrain" else 0
    second = TransportTask(
        transport, options, evaluate, pretrain=pretrain, monitor=monitor, begin=first_steps
    )
    task = TwoStages(stage, second, first_steps, gaussian_start=options.start == "gaussian", floor=floor)
    source = task.source(options.seed, options.batch_size)
    summary = fit(session, task, source, first_steps + pretrain + options.steps, transport=transport)
    task.points()
    path = session.run.path / "map.safetensors"
    if is_main():
        save_map(path, second.averaged, command=session.run.command, **(about or {}))
    return Trained(summary, second.averaged.eval(), path)


def fit(session: Session[Any], task: Any, source: Source, steps: int, *, transport: W2GN) -> Summary:
    """Run the loop for ``steps`` steps, with evaluations and checkpoints at the cadence of the options.

    The task is left in evaluation mode: what follows only uses its networks.
    """
    options: TransportOptions = session.config
    every = options.eval_every or max(steps // 10, 1)
    if options.compile:
        transport.compile(mode="reduce-overhead" if session.device.type == "cuda" else "default")
    trainer = session.trainer(
        task,
        source,
        cadence=Cadence(
            steps=steps,
            eval_every=every,
            checkpoint_every=options.checkpoint_every * every,
            log_every=options.log_every,
        ),
        updates=Updates(precision=options.precision),
        compile=False,
    )
    summary = trainer.fit(resume=session.checkpoint)
    task.eval()
    return summary


def history(session: Session[Any], split: str, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Metrics of the run over its steps, for curves."""
    rows = session.run.metrics(split)
    return {name: [(row.step, row.value) for row in rows if row.metric == name] for name in names}


def save_clouds(path: Path, **clouds: Tensor) -> None:
    """Write points and their images as float32 arrays of one ``.npz``, from which ``wasskit plot`` draws."""
    arrays = {name: cloud.detach().float().cpu().numpy() for name, cloud in clouds.items()}

    def write(file: BinaryIO) -> None:
        np.savez(file, **arrays)  # type: ignore[arg-type]

    replace_file(path, write)


def say_where(paths: Sequence[Path | None], trained_map: Path | None = None) -> None:
    """Print where figures and the map lie."""
    for path in paths:
        if path is not None:
            console.result(f"Figure: {console.escape(str(path))}")
    if trained_map is not None:
        console.result(f"Map: {console.escape(str(trained_map))}")


def next_steps(*commands: tuple[object, ...]) -> None:
    """The commands to try next: of each the subcommand of `w2gn` and its arguments."""
    console.log("Next:")
    for name, *arguments in commands:
        console.log(f"  {console.command_line(f'w2gn {name}', *arguments)}")
