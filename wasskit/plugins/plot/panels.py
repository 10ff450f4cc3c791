"""Groups of runs as the plain series that the pictures draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasskit.pictures import costs, curves, dimensions
from wasskit.pictures.bars import Value
from wasskit.plugins.plot.files import CostTable
from wasskit.plugins.plot.groups import Group
from wasskit.plugins.plot.metrics import curve, families, heading, is_ranked, nested, unit

#: Points of one series up to which each is labelled.
_LABELLED = 12


def labelled(key: str) -> str:
    """A metric's heading with its unit."""
    return heading(key) + unit(key)


def curve_panels(
    groups: Sequence[Group],
    keys: Sequence[str],
    *,
    epochs: bool,
    smooth: float = 0.0,
    split: bool = False,
    apart: bool = False,
) -> list[curves.Panel]:
    """One panel per metric, one line per group: the mean over seeds within a band of one standard deviation.

    For one group, a metric at several nested dimensions is one panel with a line for each, unless they are ``split``.
    ``apart``: the groups of each command have panels of their own, for metrics that only share their name.
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
            panels.append(curves.Panel(name, lines, "epoch" if epochs else steps, labelled(name), title, shaded))
    return panels


def dimension_panels(
    values: Sequence[Mapping[str, Value]], bases: Mapping[str, Sequence[int]]
) -> list[dimensions.Panel]:
    """One panel per metric over its dimensions, one line per group."""
    panels = []
    for base, numbers in bases.items():
        series = {
            number: {n: own[f"{base}@{n}"] for n in numbers if f"{base}@{n}" in own}
            for number, own in enumerate(values)
        }
        shown = {number: own for number, own in series.items() if own}
        panels.append(dimensions.Panel(numbers, shown, "K" if is_ranked(base) else "dimension", labelled(base)))
    return panels


def bar_panels(values: Sequence[Mapping[str, Value]], keys: Sequence[str]) -> dict[str, dict[int, Value]]:
    """One panel per metric, one bar per group with its value and deviation."""
    return {labelled(key): {i: own[key] for i, own in enumerate(values) if key in own} for key in keys}


def cost_series(tables: Sequence[tuple[str, CostTable]], accuracy: str) -> dict[str, list[costs.Point]]:
    """Accuracy against cost; one line per strategy of each run."""
    return {
        " ".join(filter(None, (label, name))): [
            (p.cost, p.accuracy, p.label if len(points) <= _LABELLED else "") for p in points
        ]
        for label, table in tables
        for name, points in table.series(accuracy).items()
    }
