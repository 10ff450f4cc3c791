"""``wasskit plot compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, option
from wasskit.plugins.plot.options import AxisOptions, FigureOptions, MetricOptions, RunsArgument, WhichOptions


@dataclass(frozen=True, kw_only=True)
class PlotCompare(CommandOptions):
    """Options of ``wasskit plot compare``."""

    source: RunsArgument
    metrics: MetricOptions = MetricOptions()
    evaluation: WhichOptions = WhichOptions()
    axes: AxisOptions = AxisOptions()
    figure: FigureOptions = FigureOptions()
    only: tuple[Literal["loss", "metrics", "dims", "grid", "bars"], ...] | None = option(
        None, help="Draw only these figures.", panel="Figure", metavar="loss,metrics,dims,grid,bars",
        show_default="all that the runs have data for",
    )  # fmt: skip


def body(config: PlotCompare, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.opening import open_groups
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import compare_report

    report = compare_report(
        open_groups(config.source), config.evaluation.which, config.evaluation.by, look_of(config.figure),
        metric=config.metrics.metric, axes=config.axes, only=config.only,
    )  # fmt: skip
    return finish(report, config.figure, json=config.json)


command = Command(
    "plot compare",
    PlotCompare,
    body,
    "Draw all there is to compare between runs, and tabulate it.\n\n"
    "The training loss, the main metrics over training, metrics over the nested dimensions, a grid of every learning "
    "curve, and bars of the final values. Runs are labelled by the settings in which they differ; those that differ "
    "only in their seed are joined: mean and standard deviation. Unfinished and damaged runs are drawn as far as they "
    "go, and named.",
    (
        "wasskit plot compare runs/mrl/*",
        "wasskit plot compare runs/ssl --only metrics,bars --metric test/knn200_top1,test/w2",
        "wasskit plot compare runs/a runs/b --smooth 0.8 --style screen --format png,svg -o figures",
    ),
)
