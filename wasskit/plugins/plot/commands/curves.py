"""``wasskit plot curves``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation
from wasskit.plugins.plot.options import AxisOptions, FigureOptions, MetricOptions, RunsArgument


@dataclass(frozen=True, kw_only=True)
class PlotCurves(RunsArgument, MetricOptions, AxisOptions, FigureOptions, CommandOptions):
    """Options of ``wasskit plot curves``."""


def body(config: PlotCurves, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.errors import UserError
    from wasskit.pictures.look import Look
    from wasskit.plugins.plot.common import described, open_groups, say_figures
    from wasskit.plugins.plot.draw import draw_curves
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.metrics import choose, counts_epochs, main_metrics, recorded, with_courses

    groups = open_groups(config)
    known = recorded(groups)
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to draw.")
    # What was measured once has no curve; it is drawn only where there is nothing else.
    courses = with_courses(groups, known) or known
    keys = choose(config.metric, known) if config.metric else main_metrics(groups, courses, limit=3)
    if not config.metric and "train/loss" in courses and "train/loss" not in keys:
        keys = ["train/loss", *keys]
    fig, notes = draw_curves(
        groups, keys, Look(config.style, config.width, config.title), epochs=counts_epochs(groups, config.x),
        smooth=config.smooth, log_x=config.log_x, log_y=config.log_y, title="Learning curves",
    )  # fmt: skip
    figures = save(fig, config, "curves", single=True)
    say_figures(config, figures, notes)
    return {"figures": [str(path) for path in figures], "metrics": keys, "groups": described(groups)}


command = Command(
    "plot curves",
    PlotCurves,
    body,
    "Draw metrics over the course of training.\n\n"
    "One panel per metric, one line per run. Runs that differ only in their seed are one line, their mean, within a "
    "band of one standard deviation (n - 1 in the denominator) as far as all of them go. With --smooth the values "
    "themselves stay visible behind.",
    (
        "wasskit plot curves runs/mrl/digits",
        "wasskit plot curves runs/mrl/* --metric train/loss,test/top1 --smooth 0.9 --log-y",
        "wasskit plot curves runs/mrl/digits --metric 'test/top1@*' --format pdf --width single",
    ),
)
