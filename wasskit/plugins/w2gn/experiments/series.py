"""One run per dimension, and the table over dimensions beside the published rows."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from wasskit import console
from wasskit.config import Invocation, to_options
from wasskit.distributed.group import barrier, group, is_main
from wasskit.errors import UserError
from wasskit.plugins.w2gn.core.objective import Refine
from wasskit.plugins.w2gn.core.task import dense_transport
from wasskit.plugins.w2gn.experiments.pairs import KnownPair, evaluation
from wasskit.plugins.w2gn.fitting import history, next_steps, sampler, say_where, train
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
    hidden: Callable[[Any, int], tuple[int, ...]],
    published: Mapping[str, Mapping[int, Any]],
    base_name: str,
) -> dict[str, Any]:
    """Train on the pair of every dimension and print the table.

    Several dimensions lie in ``d2``, ``d4``, ... of one folder, with the series' own settings in ``series.toml``;
    with ``--resume`` those that are finished are kept.

    Args:
        pair: settled configuration and dimension to the pair.
        hidden: widths of the hidden layers, likewise.
        published: rows of the table, by dimension.
        base_name: of the run directory, where the user chose none.
    """
    with group(config.device):
        base, config = settled(config, invocation, base_name)
        several = len(config.dim) > 1
        barrier()  # every rank has read what is there before rank 0 writes
        if several and is_main() and not (base / SERIES).is_file():
            base.mkdir(parents=True, exist_ok=True)
            document = {"command": invocation.command, "options": to_options(config)}
            replace_text(base / SERIES, tomli_w.dumps(document))
        results: dict[int, dict[str, Any]] = {}
        for dim in config.dim:
            own = dataclasses.replace(config, dim=(dim,))
            given = invocation.given
            if several:
                again = config.resume is not None or config.requeue
                own = dataclasses.replace(
                    own, run_dir=base / f"d{dim}", name=None, resume=None, requeue=again
                )
                given = given - {"dim", "run_dir", "name", "resume"}
            own_invocation = dataclasses.replace(invocation, given=given)
            results[dim] = run_one(own, own_invocation, pair, dim, hidden, f"{base_name}-{dim}")
    show(results, published, title=f"w2gn {base_name}, L2-UVP in %")
    summary = {"dimensions": {str(dim): result for dim, result in results.items()}}
    if several and is_main():
        replace_text(base / f"{base_name}.json", json.dumps(summary, indent=2) + "\n")
        console.result(f"Table: {console.escape(str(base / f'{base_name}.json'))}")
    next_steps(("apply", results[config.dim[-1]]["map"], "POINTS.npy"))
    return summary if several else results[config.dim[0]] | summary


def settled(config: Any, invocation: Invocation, base_name: str) -> tuple[Path, Any]:
    """The folder of the series and its configuration: when resuming, the series' own, or that of the one run named.

    Raises:
        UserError: there is nothing to resume, what is asked for contradicts it, or the folder is taken.
    """
    chosen = config.run_dir or Path("runs") / "w2gn" / (config.name or base_name)
    named = config.resume if config.resume not in (None, "last", "previous") else None
    place = Path(named) if named is not None else chosen
    if (place / SERIES).is_file():
        if config.resume is not None or config.requeue:
            series = RunDirectory(place, read_configuration(place / SERIES))
            return place, resumed_config(config, invocation, series)
        if config.run_dir is not None or config.name is not None:
            raise UserError(
                f"{place} holds a series already: go on with --resume {shlex.quote(str(place))}, or choose another "
                "--run-dir."
            )
    if named is not None and "dim" not in invocation.given:
        run, _ = RunDirectory.find(named, plugin="w2gn")
        config = dataclasses.replace(config, dim=tuple(run.options.get("dim", config.dim)))
    if len(config.dim) > 1:
        if config.resume is not None:
            raise UserError(
                f"There is nothing to resume: {place} holds no series of dimensions. Start it by --requeue instead, "
                "or name the run of one dimension by --resume PATH."
            )
        if config.run_dir is None and config.name is None:
            place = next(name for name in numbered_names(place) if not name.exists())
    return place, config


def run_one(
    config: Any,
    invocation: Invocation,
    pair: Callable[[Any, int], KnownPair],
    dim: int,
    hidden: Callable[[Any, int], tuple[int, ...]],
    name: str,
) -> dict[str, Any]:
    """One dimension: its run directory, training, figure and scores."""
    with training_session(config, invocation, name=name) as session:
        config, device = session.config, session.device
        known = pair(config, dim)
        if known.note:
            console.log(known.note)
        x = sampler(known.source, config.seed, "source", config.sampling, device)
        y = sampler(known.target, config.seed, "target", config.sampling, device)
        transport = dense_transport(config, known.dim, x, y, hidden=hidden(config, known.dim))
        refine: Refine = config.refine if config.refine != "none" else "lbfgs"
        evaluate = evaluation(known, refine)
        begun = evaluate(transport.to(device), None)["test"]
        about = {"pair": known.name, "dim": known.dim}
        trained = train(session, transport, x, y, evaluate, monitor="test/uvp_forward", about=about)
        final = {key.removeprefix("test/"): value for key, value in trained.summary.final.items()}
        figures = []
        if is_main():
            from wasskit.plugins.w2gn import figures as draw

            names = {
                "uvp_forward": "forward",
                "uvp_inverse": "inverse",
                "uvp_inverse_solved": "inverse, solved",
            }
            series = history(session, "test", list(names))
            figures.append(
                draw.curves(
                    session.run.figures / "uvp.png",
                    {names[key]: v for key, v in series.items()},
                    ylabel="unexplained variance (%)",
                    lines={"start": begun["uvp_forward"]},
                )
            )
        say_where(figures, trained.map_path)
        return trained.summary.as_dict() | {
            "run": str(session.run.path),
            "map": str(trained.map_path),
            "pair": known.name,
            "note": known.note,
            "scores": final,
            "scores_at_start": begun,
        }


def show(
    results: Mapping[int, Mapping[str, Any]], published: Mapping[str, Mapping[int, Any]], title: str
) -> None:
    """The table: one row per measure and per published solver, one column per dimension."""
    dims = list(results)
    rows: list[list[Any]] = []
    for key, name in (
        ("uvp_forward", "forward"),
        ("uvp_inverse", "inverse"),
        ("uvp_inverse_solved", "inverse, solved"),
        ("cosine_forward", "cosine, forward"),
        ("cosine_inverse", "cosine, inverse"),
    ):
        rows.append([name, *(digits(results[d]["scores"].get(key)) for d in dims)])
    for key, name in (("uvp_forward", "start, forward"), ("uvp_inverse", "start, inverse")):
        rows.append([name, *(digits(results[d]["scores_at_start"].get(key)) for d in dims)])
    rows.append(["steps", *(str(results[d]["steps"]) for d in dims)])
    rows.append(["minutes", *(f"{results[d]['wall_seconds'] / 60:.1f}" for d in dims)])
    for name, row in published.items():
        rows.append([name, *(str(row.get(d, "-")) for d in dims)])
    console.table(title, ["", *(f"D = {d}" for d in dims)], rows)


def digits(value: float | None) -> str:
    """Three significant digits."""
    return "-" if value is None else f"{value:.3g}"
