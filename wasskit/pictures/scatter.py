"""Points of two quantities, one panel per pair."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from wasskit.pictures.axes import columns_of, label, short_numbers
from wasskit.pictures.look import Look, style_of
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Scatter:
    """One panel: points (x, y), the name of x, and a text above."""

    xs: Sequence[float]
    ys: Sequence[float]
    xlabel: str
    title: str = ""


def draw_scatter(panels: Sequence[Scatter], look: Look, *, ylabel: str) -> Figure:
    """Panels side by side that share the vertical quantity."""
    fig, axes = look.figure(len(panels), ratio=0.9)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        style = style_of(0)
        ax.plot(panel.xs, panel.ys, linestyle="none", marker=style["marker"], color=style["color"], markersize=3.5)
        ax.set_xlabel(figure_text(panel.xlabel))
        if number % columns_of(ax) == 0:
            label(ax, ylabel)
        if panel.title:
            ax.set_title(figure_text(panel.title), fontsize=8)
        short_numbers(ax, "x")
        ax.margins(0.1)
    return look.finish(fig)
