"""One style for all figures: legible in print, in grey and to colour-blind readers.

Series differ by colour (Okabe and Ito's palette), line style and marker at once. Nothing global is changed: pyplot is
not used and matplotlib's defaults stay as they are.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wasskit.system.files import replace_file, writing
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, those that stand out most on white first.
COLOURS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
PALETTE = tuple(COLOURS.values())

_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTHS = {"single": 3.5, "double": 7.2}
_TITLE, _LEGEND = 9, 8
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "image.cmap": "viridis",
}


def series_style(number: int) -> dict[str, Any]:
    """Colour, line style and marker of the series ``number``, as keywords of ``Axes.plot``. They repeat after 8."""
    place = number % len(PALETTE)
    return {"color": PALETTE[place], "linestyle": _LINES[place], "marker": _MARKERS[place]}


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: Literal["single", "double"] | float = "single",
    ratio: float = 0.72,
    height: float | None = None,
    projection: str | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    """A figure and its axes.

    Args:
        width: of the whole figure: a journal's ``single`` (3.5) or ``double`` (7.2) column, or inches.
        ratio: height of one panel over its width.
        height: of the whole figure in inches, instead of ``ratio``.
        projection: of the axes, e.g. ``"3d"``.

    Returns:
        The figure and one ``Axes``, or an array of them of shape (rows, columns) where there are several.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if projection == "3d":
        import mpl_toolkits.mplot3d  # noqa: F401 - registers the projection

    inches = _WIDTHS[width] if isinstance(width, str) else width
    with matplotlib.rc_context(_STYLE):
        drawn = Figure(
            figsize=(inches, inches / columns * ratio * rows if height is None else height), layout="constrained"
        )
        FigureCanvasAgg(drawn)
        axes = drawn.subplots(
            rows, columns, squeeze=False, sharex=sharex, sharey=sharey, subplot_kw={"projection": projection}
        )
        for ax in axes.flat:
            _prepare(ax)
    return drawn, axes[0, 0] if rows == columns == 1 else axes


def legend_above(ax: Axes, columns: int = 1) -> None:
    """A legend over the axes, where it hides no data."""
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, borderaxespad=0.2)


def label_points(fig: Figure, ax: Axes, labels: Sequence[tuple[float, float, str, Any]], *, size: float = 6) -> None:
    """Write (x, y, text, colour) above or below the points, earlier ones first.

    A text for which there is no place is left out: where it would cover another one or leave the axes. To be called
    when everything else has been drawn, since the layout decides what is close to what.

    Args:
        size: of the letters, in points.
    """
    from matplotlib.patheffects import withStroke

    fig.draw_without_rendering()
    points = 72 / fig.dpi
    inside = ax.get_window_extent()
    bottom, top = inside.y0 * points, inside.y1 * points
    taken: list[tuple[float, float, float]] = []
    for x, y, text, colour in labels:
        across, up = ax.transData.transform((x, y)) * points
        half = 0.37 * size * len(text) + 1
        for offset in (4, -9, 11, -16):
            place = up + offset
            free = all(abs(place - v) >= size + 1 or abs(across - u) >= half + other for u, v, other in taken)
            if free and bottom <= place <= top - size + 1:
                taken.append((across, place, half))
                ax.annotate(
                    figure_text(text), (x, y), xytext=(0, offset), textcoords="offset points", ha="center",
                    fontsize=size, color=colour, path_effects=[withStroke(linewidth=1.5, foreground="white")],
                )  # fmt: skip
                break


def save_figure(fig: Figure, path: Path | str, *, dpi: int = 200) -> Path:
    """Write a figure in the format of the path's suffix (``.png`` without one), and return the path.

    The same figure gives the same bytes. Raises ``UserError`` where the file cannot be written.
    """
    import matplotlib

    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".png")
    kind = path.suffix[1:].lower()
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _set_text(fig)
    fixed: Any = {"svg.hashsalt": "wasskit", "pdf.fonttype": 42}
    with matplotlib.rc_context(fixed):
        replace_file(path, lambda file: fig.savefig(file, format=kind, dpi=dpi, metadata=undated.get(kind)))
    return path


def _prepare(ax: Axes) -> None:
    from cycler import cycler

    styles = [{**series_style(i), "markersize": 3.5, "linewidth": 1.4} for i in range(len(PALETTE))]
    keys = list(styles[0])
    cycle = cycler(**{key: [style[key] for style in styles] for key in keys})
    ax.set_prop_cycle(cycle)


def _set_text(fig: Figure) -> None:
    """Give titles and legends, which take matplotlib's sizes when they are made, the sizes of this style."""
    for ax in fig.axes:
        for title in (ax.title, ax._left_title, ax._right_title):  # type: ignore[attr-defined]
            title.set_fontsize(_TITLE)
        legend = ax.get_legend()
        if legend is not None:
            for text in legend.get_texts():
                text.set_fontsize(_LEGEND)
            legend.get_title().set_fontsize(_LEGEND)
            legend.get_frame().set(edgecolor="none", alpha=0.8)
