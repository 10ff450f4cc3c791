"""``wasskit plot dims``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, option
from wasskit.plugins.plot.options import FigureOptions, MetricOptions, RunsArgument, WhichOptions


@dataclass(frozen=True, kw_only=True)
class PlotDims(RunsArgument, MetricOptions, WhichOptions, FigureOptions, CommandOptions):
    """Options of ``wasskit plot dims``."""

    log_y: bool = option(False, help="Logarithmic vertical axis.", panel="Axes", flag="--log-y")


def body(config: PlotDims, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.errors import UserError
    from wasskit.pictures.look import Look
    from wasskit.plugins.plot.common import choose_evaluation, described, open_groups, say_figures
    from wasskit.plugins.plot.draw import draw_dims
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.metrics import choose, families, tabulated

    groups = open_groups(config)
    every = families(tabulated(groups))
    if not every:
        raise UserError(
            "None of the runs has a metric at several dimensions (named like test/top1@64): draw it with `plot curves`."
        )
    if config.metric:
        wanted = [pattern.partition("@")[0] for pattern in config.metric]
        bases = {base: every[base] for base in choose(wanted, list(every))}
    else:
        bases = {base: numbers for base, numbers in every.items() if not base.startswith("train/")} or every
        bases = dict(list(bases.items())[:6])
    values = choose_evaluation(config, groups)
    look = Look(config.style, config.width, config.title)
    fig = draw_dims(groups, values, bases, look, log_y=config.log_y, title="Over the dimensions")
    figures = save(fig, config, "dims", single=True)
    say_figures(config, figures)
    return {
        "figures": [str(path) for path in figures],
        "groups": described(groups),
        "values": [
            {
                key: own[key].mean
                for base, numbers in bases.items()
                for n in numbers
                if (key := f"{base}@{n}") in own
            }
            for own in values
        ],
    }


command = Command(
    "plot dims",
    PlotDims,
    body,
    "Draw metrics over the nested dimensions.\n\n"
    "Every metric that was measured at several dimensions is a panel; runs that differ only in their seed are one "
    "line, with the standard deviation as bars. Metrics over ranks, such as recall@K, are drawn over K.",
    (
        "wasskit plot dims runs/mrl/digits",
        "wasskit plot dims runs/mrl/mwrl-* runs/mrl/matryoshka-* --metric top1 --width single --format pdf",
    ),
)
