"""Run a training in two stages in a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasskit.distributed.group import is_main
from wasskit.plugins.w2gn.maps import plain_coordinates, save_map
from wasskit.plugins.w2gn.objective import W2GN
from wasskit.plugins.w2gn.options import TransportOptions
from wasskit.plugins.w2gn.stages import FirstStage, TwoStages
from wasskit.plugins.w2gn.task import Evaluate, TransportTask, objective_settings
from wasskit.plugins.w2gn.training import Trained, fit
from wasskit.training.session import Session


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
