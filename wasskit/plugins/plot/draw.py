"""Figures of groups of runs: their metrics as the plain series that are drawn."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from wasskit.pictures import bars, costs, curves, dimensions
from wasskit.pictures.bars import Value
from wasskit.pictures.look import Look
from wasskit.plugins.plot.files import CostTable
from wasskit.plugins.plot.groups import Group
from wasskit.plugins.plot.metrics import curve, families, heading, is_ranked, nested, unit

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSTS = {"operations": "multiply-adds", "mean_dim": "mean number of coordinates used"}
#: Points of one series up to which each is labelled.
_LABELLED = 12


def draw_curves(
    groups: Sequence[Group],
    keys: Sequence[str],
    look: Look,
    *,
    epochs: bool,
    smooth: float = 0.0,
    split: bool = False,
    apart: bool = False,
    **axes: Any,
) -> tuple[Figure, list[str]]:
    """One panel per metric, one line per group: the mean over seeds within a band of one standard deviation.

    For one group, a metric at several nested dimensions is one panel with a line for each, unless they are ``split``.
    ``apart``: the groups of each command have panels of their own, for metrics that only share their name.

    Returns:
        The figure, and what could not be drawn as asked for, in words.
    """
    members: dict[str, list[str]] = {}
    bases = families(keys) if len(groups) == 1 and not split else {}
    for key in keys:
        at = nested(key)
        members.setdefault(at[0] if at and at[0] in bases else key, []).append(key)
    commands = list(dict.fromkeys(group.runs[0].command for group in groups)) if apart else [""]
    panels = []
    for name, own in members.items():
        for command in commands:
            shown = [(i, g) for i, g in enumerate(groups) if not apart or g.runs[0].command == command]
            shaded = ("K" if is_ranked(name) else "dimension") if len(own) > 1 else None
            lines = [
                curves.Line(
                    drawn,
                    key.rpartition("@")[2] if shaded else group.caption,
                    place if shaded else number,
                    curve(group, key, epochs=epochs) if smooth else None,
                )
                for place, key in enumerate(own)
                for number, group in shown
                if (drawn := curve(group, key, epochs=epochs, smooth=smooth)) is not None
            ]
            steps = "step" if any(g.is_training for _, g in shown) else "quantity varied"
            title = command if len(commands) > 1 else ""
            xlabel = "epoch" if epochs else steps
            panels.append(curves.Panel(name, lines, xlabel, heading(name) + unit(name), title, shaded))
    return curves.draw_curves(panels, look, **axes)


def draw_dims(
    groups: Sequence[Group],
    values: Sequence[Mapping[str, Value]],
    bases: Mapping[str, Sequence[int]],
    look: Look,
    **axes: Any,
) -> Figure:
    """One panel per metric over its dimensions, one line per group."""
    panels = []
    for base, numbers in bases.items():
        series = {
            number: {n: own[f"{base}@{n}"] for n in numbers if f"{base}@{n}" in own}
            for number, own in enumerate(values)
        }
        shown = {number: own for number, own in series.items() if own}
        xlabel = "K" if is_ranked(base) else "dimension"
        panels.append(dimensions.Panel(numbers, shown, xlabel, heading(base) + unit(base)))
    return dimensions.draw_dims([group.caption for group in groups], panels, look, **axes)


def draw_bars(
    groups: Sequence[Group],
    values: Sequence[Mapping[str, Value]],
    keys: Sequence[str],
    look: Look,
    *,
    title: str = "",
) -> Figure:
    """One panel per metric, one bar per group with its value and deviation."""
    panels = {
        heading(key) + unit(key): {number: own[key] for number, own in enumerate(values) if key in own}
        for key in keys
    }
    return bars.draw_bars([group.caption for group in groups], panels, look, title=title)


def draw_costs(tables: Sequence[tuple[str, CostTable]], accuracy: str, look: Look, **axes: Any) -> Figure:
    """Accuracy against cost; one line per strategy of each run."""
    series = {
        " ".join(filter(None, (label, name))): [
            (p.cost, p.accuracy, p.label if len(points) <= _LABELLED else "") for p in points
        ]
        for label, table in tables
        for name, points in table.series(accuracy).items()
    }
    cost = tables[0][1].cost
    return costs.draw_costs(
        series, look, xlabel=_COSTS.get(cost, cost.replace("_", " ")), ylabel=heading(accuracy) + unit(accuracy),
        wide=look.width is None and len(tables) > 1, **axes,
    )  # fmt: skip
