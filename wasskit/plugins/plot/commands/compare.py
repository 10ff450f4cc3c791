"""``wasskit plot compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, option
from wasskit.plugins.plot.options import AxisOptions, FigureOptions, MetricOptions, RunsArgument, WhichOptions


@dataclass(frozen=True, kw_only=True)
class PlotCompare(RunsArgument, MetricOptions, WhichOptions, AxisOptions, FigureOptions, CommandOptions):
    """Options of ``wasskit plot compare``."""

    only: tuple[Literal["loss", "metrics", "dims", "grid", "bars"], ...] | None = option(
        None, help="Draw only these figures.", panel="Figure", metavar="loss,metrics,dims,grid,bars",
        show_default="all that the runs have data for",
    )  # fmt: skip


def body(config: PlotCompare, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.pictures.look import Look
    from wasskit.plugins.plot.common import choose_evaluation, described, open_groups, say_figures
    from wasskit.plugins.plot.draw import draw_bars, draw_curves, draw_dims
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.metrics import (
        choose,
        counts_epochs,
        families,
        main_metrics,
        nested,
        recorded,
        tabulated,
        with_courses,
    )
    from wasskit.plugins.plot.tables import make_table, records, to_terminal

    groups = open_groups(config)
    every = [key for key in tabulated(groups) if not key.startswith("run/")]
    known = recorded(groups) or every
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to compare.")
    shown = choose(config.metric, every) if config.metric else main_metrics(groups, known, limit=4)
    over_time = with_courses(groups, shown)
    values = choose_evaluation(config, groups)
    look = Look(config.style, config.width, config.title)
    axes: dict[str, Any] = {
        "epochs": counts_epochs(groups, config.x),
        "smooth": config.smooth,
        "log_x": config.log_x,
        "log_y": config.log_y,
    }
    evaluated = [key for key in known if not key.startswith("train/")]
    nests = families(shown if config.metric else [key for key in every if not key.startswith("train/")])
    bases = dict(list(nests.items())[:6])
    # The grid is every learning curve there is, at each dimension; the first figures are the main ones alone.
    main = next((base for base in nests if base in shown), next(iter(nests), None))
    terms = [key for key in known if key.startswith("train/") and nested(key) is None]
    grid = [f"{main}@{n}" for n in nests[main]] if main else [*terms, *evaluated]
    grid = with_courses(groups, grid)
    wanted = set(config.only or ("loss", "metrics", "dims", "grid", "bars"))
    drawn: dict[str, Any] = {}
    notes: list[str] = []
    if "loss" in wanted and with_courses(groups, ["train/loss"]):
        # Losses of different methods have nothing but their name in common.
        drawn["loss"], more = draw_curves(
            groups, ["train/loss"], look, **axes, apart=True, title="Training loss"
        )
        notes += more
    if "metrics" in wanted and over_time:
        drawn["metrics"], more = draw_curves(groups, over_time, look, **axes, title="Metrics")
        notes += more
    if "dims" in wanted and bases:
        drawn["dims"] = draw_dims(groups, values, bases, look, title="Over the dimensions")
    if "grid" in wanted and len(grid) > 1:
        drawn["grid"], more = draw_curves(
            groups,
            grid[:24],
            look,
            **axes,
            title="Learning curves",
            columns=2 if len(grid) in (2, 4) else 3,
            split=True,
        )
        notes += more
    if "bars" in wanted and shown:
        drawn["bars"] = draw_bars(groups, values, shown, look, title=f"{config.which.capitalize()} values")
    if not drawn:
        raise UserError(f"--only {','.join(config.only or ())}: the runs have no data for that.")
    figures = [path for name, fig in drawn.items() for path in save(fig, config, f"compare-{name}")]
    table = make_table(groups, {config.which: values}, shown)
    if not config.json:
        console.stdout().print(to_terminal(table, f"{config.which.capitalize()} metrics"))
    say_figures(config, figures, dict.fromkeys([*notes, *table.notes]))
    return {
        "figures": [str(path) for path in figures],
        "metrics": shown,
        "groups": described(groups),
        "table": records(table),
    }


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
