"""``wasskit plot retrieval``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotRetrieval(CommandOptions):
    """Options of ``wasskit plot retrieval``."""

    figure: FigureOptions = FigureOptions()
    sources: tuple[Path, ...] = argument(
        help="Run directories, or JSON files of results.", complete=complete_sources, metavar="RUN|FILE..."
    )
    metric: str | None = option(
        None, help="What is on the vertical axis.", panel="Axes", short="-m", metavar="NAME",
        show_default="map10, top1 or the first measured",
    )  # fmt: skip
    cost: str | None = option(
        None, help="What is on the horizontal axis.", panel="Axes", metavar="NAME",
        show_default="operations, or the first cost",
    )  # fmt: skip
    labels: tuple[str, ...] | None = option(
        None, help="Names of the sources, in order.", panel="Figure", show_default="from runs and files"
    )


def body(config: PlotRetrieval, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.errors import UserError
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import costs_report
    from wasskit.plugins.plot.sources import costs_of, other_name

    if config.labels is not None and len(config.labels) != len(config.sources):
        raise UserError(f"--labels names {len(config.labels)} for {len(config.sources)} sources: give one each.")
    found = [costs_of(source, config.cost, config.metric) for source in config.sources]
    table = found[0][0]
    accuracy = config.metric or table.preferred
    names: list[str] = list(config.labels or ())
    for source in config.sources[len(names) :]:
        names.append(other_name(source.resolve().name, source, names))
    # One run needs no name beside its strategies, and a run's several results are told apart by their files.
    shown = []
    for name, tables in zip(names, found, strict=True):
        fitting = [t for t in tables if accuracy in t.accuracies and t.cost == table.cost][:1]
        if not fitting:
            raise UserError(
                f"{name} has no {accuracy!r} against {table.cost!r}: draw it on its own, or choose --metric."
            )
        shown += [("" if len(found) == 1 else name, t) for t in fitting]
    return finish(costs_report(shown, accuracy, look_of(config.figure)), config.figure, json=config.json)


command = Command(
    "plot retrieval",
    PlotRetrieval,
    body,
    "Draw accuracy against cost.\n\n"
    "From any JSON file of a run that lists results with what each costs, such as those of `wasskit mrl retrieve` and "
    "`wasskit mrl classify`. The cost is on a logarithmic axis; each strategy is a line.",
    (
        "wasskit plot retrieval runs/mrl/digits",
        "wasskit plot retrieval runs/mrl/digits/cascade.json --cost mean_dim --metric top1",
    ),
)
