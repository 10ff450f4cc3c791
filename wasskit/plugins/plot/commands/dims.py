"""``wasskit plot dims``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, same
from wasskit.plugins.plot.options import AxisOptions, FigureOptions, MetricOptions, RunsArgument, WhichOptions


@dataclass(frozen=True, kw_only=True)
class PlotDims(CommandOptions):
    """Options of ``wasskit plot dims``."""

    source: RunsArgument
    metrics: MetricOptions = MetricOptions()
    evaluation: WhichOptions = WhichOptions()
    figure: FigureOptions = FigureOptions()
    log_y: bool = same(AxisOptions, "log_y")


def body(config: PlotDims, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.groups import open_groups
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import dims_report

    report = dims_report(
        open_groups(config.source),
        config.evaluation.which,
        config.evaluation.by,
        look_of(config.figure),
        metric=config.metrics.metric,
        log_y=config.log_y,
    )
    return finish(report, config.figure, json=config.json)


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
