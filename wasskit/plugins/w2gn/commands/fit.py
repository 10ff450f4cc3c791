"""``wasskit w2gn fit``: maps between any two clouds of vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.w2gn.clouds.options import CloudOptions


@dataclass(frozen=True, kw_only=True)
class W2gnFit(CloudOptions):
    """Options of ``wasskit w2gn fit``."""


def body(config: W2gnFit, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.clouds.data import divided, read_pair
    from wasskit.plugins.w2gn.clouds.report import fit_report, measured
    from wasskit.plugins.w2gn.clouds.task import build_cloud_task, finished
    from wasskit.plugins.w2gn.fitting import Trained, conclude, fit, pretraining, written
    from wasskit.training.session import training_session

    config = dataclasses.replace(config, source=absolute(config.source), target=absolute(config.target))
    # Before there is a run directory, so that a file that is not there leaves none behind.
    new = config.run.resume is None and not config.run.requeue
    pair = read_pair(config.source, config.target) if new else None
    name = f"{config.source.stem}-{config.target.stem}" if config.source and config.target else "patches-camera"
    with training_session(config, invocation, name=name) as session:
        config = session.config
        pair = pair or read_pair(config.source, config.target)
        clouds = divided(pair, config.coordinates, config.held_out, config.run.seed, session.device)
        session.config = config = config.settled(clouds.rows, clouds.dim)
        task, source = build_cloud_task(config, clouds, session.device)
        steps = config.training.settled[0] + pretraining(config)
        summary = fit(session, task, source, steps, transport=task.transport)
        fitted = finished(task, clouds)
        scores = measured(fitted, clouds, discrete_rows=config.discrete_rows)
        final = summary.final | {f"test/{name}": value for name, value in scores.items()}
        summary = dataclasses.replace(summary, final=final)
        decided = {} if fitted.kept is None else fitted.kept.as_dict()
        session.run.write_summary(summary.as_dict() | decided)
        path = written(session, fitted.framed, {"source": clouds.names[0], "target": clouds.names[1]})
        trained = Trained(summary, fitted.maps, path, session.run, fitted.kept)
        report = fit_report(fitted, clouds, scores, trained.history("val"))
        apply = ("apply", path, config.source or "ROWS.npy")
        return conclude(trained, report, apply, ("apply", path, config.target or "ROWS.npy", "--inverse"))


def absolute(path: Path | None) -> Path | None:
    """The path from the root, so that a resumed run finds it."""
    return None if path is None else path.expanduser().absolute()


command = Command(
    "w2gn fit",
    W2gnFit,
    body,
    "Maps between any two clouds of vectors, from files.\n\n"
    "Fits the optimal transport map from the rows of one file to those of another, and its inverse. The training "
    "starts at the map between the two Gaussians and is kept only where rows that it does not see show it to be "
    "better. Other rows, seen by neither, give the energy distance before and after, W2 beside that of the Gaussians "
    "and the exact one of a sample, and what is lost by mapping there and back. `w2gn apply` maps files, "
    "wasskit.TransportMap maps arrays.",
    (
        "wasskit w2gn fit",
        "wasskit w2gn fit source.npy target.npy",
        "wasskit w2gn fit old.npz:embeddings new.npz:embeddings --coordinates standardised",
    ),
)
