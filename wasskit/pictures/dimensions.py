"""Metrics over the nested dimensions, or over the number of retrieved items."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wasskit.pictures import axes
from wasskit.pictures.bars import Value
from wasskit.pictures.look import Look, style_of
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One metric: by the number of each group, its values at some of ``numbers``."""

    numbers: Sequence[int]
    values: Mapping[int, Mapping[int, Value]]
    xlabel: str
    ylabel: str


def draw_dims(
    captions: Sequence[str], panels: Sequence[Panel], look: Look, *, log_y: bool = False, title: str = ""
) -> Figure:
    """One panel per metric over its dimensions (log2 axis), one line per group, deviations as bars."""
    fig, places = look.figure(len(panels))
    spread = any(v.deviation for panel in panels for own in panel.values.values() for v in own.values())
    for ax, panel in zip(places, panels, strict=True):
        for number, values in panel.values.items():
            bars = [value.deviation or 0.0 for value in values.values()]
            # Bars of different groups stand side by side rather than on top of each other.
            shift = 2 ** (0.08 * (number - (len(captions) - 1) / 2)) if spread else 1.0
            ax.errorbar(
                [n * shift for n in values], [value.mean for value in values.values()],
                yerr=bars if any(bars) else None, capsize=2, markersize=3.5, linewidth=1.3,
                label=figure_text(captions[number]), **style_of(number),
            )  # fmt: skip
        axes.log2_axis(ax, panel.numbers)
        ax.set_xlabel(panel.xlabel)
        axes.label(ax, panel.ylabel)
        if log_y:
            ax.set_yscale("log", nonpositive="mask")
    return look.finish(fig, title=title, legend_from=places)
