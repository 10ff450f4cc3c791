"""One run per dimension, and the table over dimensions beside the published rows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from wasskit import console
from wasskit.config import Invocation, changed, part, to_options
from wasskit.distributed.group import barrier, group, is_main
from wasskit.errors import UserError
from wasskit.plugins.w2gn.core.task import fitted_transport
from wasskit.plugins.w2gn.experiments.pairs import KnownPair, dimensions_report
from wasskit.plugins.w2gn.fitting import conclude, next_steps, samplers, train
from wasskit.plugins.w2gn.options import EnsembleOptions
from wasskit.report import finish, show
from wasskit.system.files import replace_text
from wasskit.training.run import RunDirectory, numbered_names, read_configuration
from wasskit.training.session import resumed_config, training_session

SERIES = "series.toml"
"""The settings of a series of dimensions, in the folder of its runs."""


def run_series(
    config: Any,
    invocation: Invocation,
    pair: Callable[[Any, int], KnownPair],
    *,
    published: Mapping[str, Mapping[int, Any]],
    base_name: str,
) -> dict[str, Any]:
    """Train on the pair of every dimension and print the table.

    Several dimensions lie in ``d2``, ``d4``, ... of one folder, with the series' own settings in ``series.toml``;
    with ``--resume`` those that are finished are kept.

    Args:
        config: options whose ``settled(dim)`` has the settings for a dimension where they are open.
        pair: settled configuration and dimension to the pair.
        published: rows of the table, by dimension.
        base_name: of the run directory, where the user chose none.
    """
    with group(config.machine.device):
        base, config = series_settings(config, invocation, base_name)
        several = len(config.dim) > 1
        barrier()  # every rank has read what is there before rank 0 writes
        if several and is_main() and not (base / SERIES).is_file():
            base.mkdir(parents=True, exist_ok=True)
            document = {"command": invocation.command, "options": to_options(config)}
            replace_text(base / SERIES, tomli_w.dumps(document))
        results: dict[int, dict[str, Any]] = {}
        for dim in config.dim:
            own = changed(config.settled(dim), dim=(dim,))
            given = invocation.given
            if several:
                again = config.run.resume is not None or config.run.requeue
                own = changed(own, run_dir=base / f"d{dim}", name=None, resume=None, requeue=again)
                given = given - {"dim", "run_dir", "name", "resume"}
            own_invocation = dataclasses.replace(invocation, given=given)
            results[dim] = run_one(own, own_invocation, pair, dim, f"{base_name}-{dim}")
    report = dimensions_report(base_name, results, published)
    if several:
        summary = finish(report, base)
    else:
        show(report)
        summary = results[config.dim[0]] | dict(report.result)
    next_steps(("apply", results[config.dim[-1]]["map"], "POINTS.npy"))
    return summary


def series_settings(config: Any, invocation: Invocation, base_name: str) -> tuple[Path, Any]:
    """The folder of the series and its configuration: when resuming, the series' own, or that of the one run named.

    Raises:
        UserError: there is nothing to resume, what is asked for contradicts it, or the folder is taken.
    """
    chosen = config.run.run_dir or Path("runs") / "w2gn" / (config.run.name or base_name)
    named = config.run.resume if config.run.resume not in (None, "last", "previous") else None
    place = Path(named) if named is not None else chosen
    if (place / SERIES).is_file():
        if config.run.resume is not None or config.run.requeue:
            series = RunDirectory(place, read_configuration(place / SERIES))
            return place, resumed_config(config, invocation, series)
        if config.run.run_dir is not None or config.run.name is not None:
            raise UserError(
                f"{place} holds a series already: go on with --resume {shlex.quote(str(place))}, or choose another "
                "--run-dir."
            )
    if named is not None and "dim" not in invocation.given:
        run, _ = RunDirectory.find(named, plugin="w2gn")
        config = changed(config, dim=tuple(run.options.get("dim", config.dim)))
    if len(config.dim) > 1:
        if config.run.resume is not None:
            raise UserError(
                f"There is nothing to resume: {place} holds no series of dimensions. Start it by --requeue instead, "
                "or name the run of one dimension by --resume PATH."
            )
        if config.run.run_dir is None and config.run.name is None:
            place = next(name for name in numbered_names(place) if not name.exists())
    return place, config


def run_one(
    config: Any, invocation: Invocation, pair: Callable[[Any, int], KnownPair], dim: int, name: str
) -> dict[str, Any]:
    """One dimension: its run directory, training, figure and scores."""
    with training_session(config, invocation, name=name) as session:
        config = session.config
        known = pair(config, dim)
        if known.note:
            console.log(known.note)
        x, y = samplers(session, known.source, known.target)
        # Runs of earlier versions were saved with their widths left open.
        settled = config.settled(dim)
        ensemble = part(settled, EnsembleOptions)
        transport = fitted_transport(settled, known.dim, x, y, ensemble.members)
        refine = config.objective.refine
        scores = partial(known.scores, refine="lbfgs" if refine == "none" else refine)
        begun = scores(transport.to(session.device))["test"]
        about = {"pair": known.name, "dim": known.dim}
        trained = train(
            session, transport, x, y, scores, monitor="test/uvp_forward", about=about, newton=config.newton,
            ensemble=ensemble,
        )  # fmt: skip
        return conclude(trained, known.report(trained.final, begun, trained.history()))
