"""``wasskit plot dims``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.plot.options import FigureOptions, MetricOptions, RunsArgument, WhichOptions


@dataclass(frozen=True, kw_only=True)
class PlotDims(RunsArgument, MetricOptions, WhichOptions, FigureOptions):
    """Options of ``wasskit plot dims``."""

    log_y: bool = option(False, help="Logarithmic vertical axis.", panel="Axes", flag="--log-y")


def body(config: PlotDims, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.common import open_groups
    from wasskit.plugins.plot.look import finish, look_of
    from wasskit.plugins.plot.reports import dims_report

    report = dims_report(
        open_groups(config),
        config.which,
        config.by,
        look_of(config),
        metric=config.metric,
        log_y=config.log_y,
    )
    return finish(report, config)


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
