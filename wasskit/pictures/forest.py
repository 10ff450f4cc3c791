"""A forest plot: one row for each estimate, its interval as a line, panels beside each other."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from wasskit.evaluation.intervals import Estimate
from wasskit.pictures import axes
from wasskit.pictures.look import Look, style_of
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One quantity of all rows, None where a row has none; ``reference``: where to draw a line, 0 for differences."""

    xlabel: str
    estimates: Sequence[Estimate | None]
    reference: float | None = None


def draw_forest(
    groups: Sequence[tuple[str, Sequence[str]]], panels: Sequence[Panel], look: Look, *, title: str = ""
) -> Figure:
    """Rows from the top down in groups, each with a heading: ``(heading, captions)``. Panels have an estimate for each
    caption, in order.

    A row has the colour and marker of its place in the group. The marker is filled where the interval leaves out the
    panel's reference.
    """
    captions = [(text, place == 0) for name, rows in groups for place, text in enumerate((name, *rows))]
    heights = [height for height, (_, heading) in enumerate(captions) if not heading]
    places = [place for _, rows in groups for place in range(len(rows))]
    inches = 0.22 * len(captions) + 0.5
    fig, drawn = look.figure(len(panels), columns=len(panels), ratio=inches * len(panels) / 7.2, wide=True)
    for number, (ax, panel) in enumerate(zip(drawn, panels, strict=True)):
        if panel.reference is not None:
            ax.axvline(panel.reference, color="0.4", linewidth=0.9, zorder=1)
        for height, place, estimate in zip(heights, places, panel.estimates, strict=True):
            if estimate is not None:
                _draw(ax, height, place, estimate, panel.reference)
        ax.set_ylim(len(captions) - 0.4, -0.6)
        shown = [axes.wrapped(text) if number == 0 else "" for text, _ in captions]
        ax.set_yticks(range(len(captions)), shown)
        ax.tick_params(axis="y", length=0)
        for label, (_, heading) in zip(ax.get_yticklabels(), captions, strict=True):
            label.set_fontweight("bold" if heading else "normal")
        ax.grid(visible=False, axis="y")
        axes.short_numbers(ax, "x")
        ax.set_xlabel(figure_text(panel.xlabel))
    return look.finish(fig, title=title)


def _draw(ax: Axes, height: int, place: int, estimate: Estimate, reference: float | None) -> None:
    style = style_of(place)
    hollow = reference is not None
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low, estimate.high]
        hollow = reference is not None and ends[0] <= reference <= ends[1]
        ax.plot(ends, [height] * 2, color=style["color"], linestyle="-", linewidth=1.3, marker="|", markersize=6)
    ax.plot(
        [estimate.mean], [height], color=style["color"], linestyle="", marker=style["marker"], markersize=5,
        markerfacecolor="white" if hollow else style["color"], zorder=3,
    )  # fmt: skip
