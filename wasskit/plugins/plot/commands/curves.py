"""``wasskit plot curves``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation
from wasskit.plugins.plot.options import AxisOptions, FigureOptions, MetricOptions, RunsArgument


@dataclass(frozen=True, kw_only=True)
class PlotCurves(CommandOptions):
    """Options of ``wasskit plot curves``."""

    source: RunsArgument
    metrics: MetricOptions = MetricOptions()
    axes: AxisOptions = AxisOptions()
    figure: FigureOptions = FigureOptions()


def body(config: PlotCurves, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.opening import open_groups
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import curves_report

    look, metric = look_of(config.figure), config.metrics.metric
    report = curves_report(open_groups(config.source), look, metric=metric, axes=config.axes)
    return finish(report, config.figure, json=config.json)


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
