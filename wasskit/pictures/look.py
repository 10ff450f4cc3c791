"""The look of figures with any number of panels: sizes for print and screen, styles for many series, one legend."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.pictures.style import PALETTE, figure, series_style
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = {"paper": {"single": 3.5, "double": 7.2}, "screen": {"single": 6.4, "double": 11.0}}
#: Inches.
_LABELS, _LINE = 0.3, 0.19


@dataclass(frozen=True)
class Look:
    """How figures are made: ``--style``, ``--width``, ``--title``."""

    style: Literal["paper", "screen"] = "paper"
    width: Literal["single", "double"] | None = None
    title: str | None = None

    def figure(
        self,
        panels: int = 1,
        *,
        columns: int | None = None,
        ratio: float = 0.72,
        wide: bool = False,
        projection: str | None = None,
    ) -> tuple[Figure, list[Axes]]:
        """A figure of ``panels`` panels in rows, and those panels. ``wide``: two columns even for one panel."""
        if columns is None:
            columns = panels if panels <= 3 else 2 if panels == 4 else 3
        if self.width == "single" and projection is None:
            columns = min(columns, 2 if panels > 3 else 1)
        rows = -(-panels // columns)
        width = self.width or ("double" if columns > 1 or wide else "single")
        inches = _INCHES[self.style][width]
        # Ticks and labels take the same height in any panel: a narrow one gets it on top of its share.
        height = rows * (inches / columns * ratio + (_LABELS if inches / columns < 3 else 0.0))
        fig, axes = figure(rows, columns, width=inches, height=height, projection=projection)
        flat = [axes] if rows == columns == 1 else list(axes.flat)
        for ax in flat[panels:]:
            fig.delaxes(ax)
        return fig, flat[:panels]

    def finish(self, fig: Figure, *, title: str = "", legend_from: Sequence[Axes] = (), markers: float = 1.0) -> Figure:
        """Set the title (by default only on screen) and one legend for all panels, below them."""
        shown = self.title if self.title is not None else title if self.style == "screen" else ""
        inches, height = fig.get_size_inches()
        if shown:
            fig.suptitle(figure_text(shown), fontsize=11)
            height += 1.4 * _LINE
        entries: dict[str, Any] = {}
        for ax in legend_from:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        if len(entries) > 1 or any("seeds" in label or "unfinished" in label for label in entries):
            room = inches * 72
            longest = max(map(len, entries)) * 4.6 + 30
            columns = max(1, min(len(entries), int(room // longest)))
            fig.legend(
                list(entries.values()),
                list(entries),
                loc="outside lower center",
                ncols=columns,
                fontsize=8,
                frameon=False,
                markerscale=markers,
            )
            # Title and legend are added to the panels, not taken from them.
            height += _LINE * -(-len(entries) // columns) + 0.05
        fig.set_size_inches(inches, height)
        return fig


def style_of(number: int) -> dict[str, Any]:
    """Colour, line and marker of a series; beyond eight, the colours come again with other lines and markers."""
    turn, place = divmod(number, len(PALETTE))
    other = series_style(place + turn)
    return {**series_style(place), "linestyle": other["linestyle"], "marker": other["marker"]}
