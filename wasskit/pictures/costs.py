"""Accuracy against cost."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from wasskit.pictures.look import Look, style_of
from wasskit.pictures.style import label_points
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Cost, accuracy, and a text to stand beside the point where there is room.
Point = tuple[float, float, str]


def draw_costs(
    series: Mapping[str, Sequence[Point]],
    look: Look,
    *,
    xlabel: str,
    ylabel: str,
    log_y: bool = False,
    wide: bool = False,
    title: str = "",
) -> Figure:
    """One line per series on a logarithmic axis of costs."""
    fig, (ax,) = look.figure(1, wide=wide)
    labels: list[tuple[float, float, str, Any]] = []
    for number, (name, points) in enumerate(series.items()):
        style = style_of(number)
        costs, accuracies = [cost for cost, _, _ in points], [accuracy for _, accuracy, _ in points]
        ax.plot(costs, accuracies, label=figure_text(name), markersize=3.5, **style)
        labels += [(x, y, text, style["color"]) for x, y, text in points if text]
    ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log", nonpositive="mask")
    ax.set_xlabel(figure_text(xlabel))
    ax.set_ylabel(figure_text(ylabel))
    ax.margins(y=0.12)  # room for the texts beside the outermost points
    look.finish(fig, title=title, legend_from=[ax])
    label_points(fig, ax, labels)
    return fig
