"""Values of several groups beside each other."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wasskit.pictures import axes
from wasskit.pictures.look import Look, style_of
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Value:
    """Mean and standard deviation (n - 1 in the denominator) of a metric over seeds."""

    mean: float
    deviation: float | None
    count: int


def draw_bars(
    captions: Sequence[str], panels: Mapping[str, Mapping[int, Value]], look: Look, *, title: str = ""
) -> Figure:
    """One panel per metric, by its name with unit; one bar per group (by its number), with its deviation.

    Values that are close together and far from zero are points on an axis without zero: a bar cut short would lie.
    """
    from matplotlib.ticker import MaxNLocator

    columns = min(len(panels), 2 if look.width != "single" else 1)
    height = (0.5 + 0.28 * len(captions)) / (3.4 if columns > 1 else 5.0)
    fig, places = look.figure(len(panels), columns=columns, ratio=max(0.3, height), wide=True)
    for place, (ax, (name, entries)) in enumerate(zip(places, panels.items(), strict=True)):
        low, high, bars = _limits(list(entries.values()))
        ax.set_xlim(low, high)
        shown = decimals([entry.mean for entry in entries.values()])
        for number in range(len(captions)):
            entry, style = entries.get(number), style_of(number)
            if entry is None:
                ax.annotate("-", (0.02, number), xycoords=("axes fraction", "data"), va="center", fontsize=8)
                continue
            deviation = entry.deviation or 0.0
            if bars:
                ax.barh(number, entry.mean, height=0.65, color=style["color"], alpha=0.85)
            ax.errorbar(
                entry.mean, number, xerr=entry.deviation, linestyle="", color=style["color"],
                marker="" if bars else style["marker"], markersize=5, ecolor="0.15" if bars else style["color"],
                elinewidth=0.9, capsize=2,
            )  # fmt: skip
            ax.annotate(
                f"{entry.mean:.{shown}f}", (max(entry.mean + deviation, 0.0 if bars else low), number), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
        # The room for the numbers gets no ticks: percent end at 100.
        top = max((entry.mean + (entry.deviation or 0.0) for entry in entries.values()), default=high)
        ticks = MaxNLocator(4).tick_values(low, high)
        ax.set_xticks([tick for tick in ticks if low <= tick <= max(top, 0.0) + 0.1 * (high - low)])
        axes.short_numbers(ax, "x")
        first = place % columns == 0
        ax.set_yticks(range(len(captions)), [axes.wrapped(caption) if first else "" for caption in captions])
        ax.set_ylim(len(captions) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(figure_text(name))
    return look.finish(fig, title=title)


def _limits(entries: Sequence[Value]) -> tuple[float, float, bool]:
    """The axis, with room for the numbers, and whether it holds bars, which start at zero."""
    if not entries:
        return 0.0, 1.0, True
    low = min(entry.mean - (entry.deviation or 0.0) for entry in entries)
    high = max(entry.mean + (entry.deviation or 0.0) for entry in entries)
    spread = high - low
    if low * high > 0 and len(entries) > 1 and 1e-4 < spread / max(abs(low), abs(high)) < 0.2:
        return low - 0.3 * spread, high + 0.5 * spread, False
    span = max(high, 0.0) - min(low, 0.0) or 1.0
    return min(low, 0.0) - 0.05 * span * (low < 0), max(high, 0.0) + 0.25 * span, True


def decimals(values: Sequence[float], chosen: int | None = None) -> int:
    """How many to show: two from 1 on, three from a tenth on, and for smaller numbers four digits of the largest."""
    if chosen is not None:
        return chosen
    largest = max((abs(value) for value in values), default=1.0)
    if largest == 0 or largest >= 1:
        return 2
    return 3 if largest >= 0.1 else min(10, 3 - math.floor(math.log10(largest)))
