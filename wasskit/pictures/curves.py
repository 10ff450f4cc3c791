"""Metrics over the course of a training."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wasskit.pictures import axes
from wasskit.pictures.look import Look, style_of
from wasskit.pictures.style import legend_above
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY_POINTS = 20

Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Curve:
    """A metric over the course of one or several trainings.

    ``mean`` and ``deviation`` are taken where all runs that ever measured the metric did; ``tails`` are the parts of
    single runs beyond that, and all of them where they never measured together.
    """

    x: list[float]
    mean: list[float]
    deviation: list[float] | None
    tails: list[Points]

    @classmethod
    def through(cls, points: Mapping[float, float]) -> Curve:
        """The curve of one training, by its values over the steps or epochs."""
        return cls(list(points), list(points.values()), None, [])

    @property
    def parts(self) -> list[Points]:
        """The mean and the tails, those that are there."""
        return [(self.x, self.mean), *self.tails] if self.x else self.tails


@dataclass(frozen=True)
class Line:
    """A curve with its label and the number of its style; ``raw``: what a smoothed one was made of."""

    curve: Curve
    label: str
    number: int
    raw: Curve | None = None


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes.

    Args:
        name: of what is drawn, in remarks.
        shaded: title of a legend of its own; the lines then go with an ordered quantity, from dark to light.
        apart: the lines are of another kind than those of the other panels, and have a legend of their own.
        levels: values to compare with, by their labels.
    """

    name: str
    lines: Sequence[Line]
    xlabel: str
    ylabel: str
    title: str = ""
    shaded: str | None = None
    apart: bool = False
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def heights(self) -> list[float]:
        """Everything that the vertical axis shows."""
        drawn = [y for line in self.lines for _, ys in line.curve.parts for y in ys]
        return [*drawn, *self.levels.values()]

    @property
    def is_positive(self) -> bool:
        """Whether a logarithmic vertical axis can show the panel."""
        return bool(self.heights) and min(self.heights) > 0

    @classmethod
    def of_run(cls, ylabel: str, series: Mapping[str, Mapping[float, float]], **settings: Any) -> Panel:
        """Metrics of one run over its epochs, by their labels; those without values are left out."""
        shown = {label: points for label, points in series.items() if points}
        lines = [Line(Curve.through(points), label, i) for i, (label, points) in enumerate(shown.items())]
        return cls(ylabel, lines, "epoch", ylabel, **{"apart": True, **settings})


def draw_curves(
    panels: Sequence[Panel],
    look: Look,
    *,
    log_x: bool = False,
    log_y: bool = False,
    columns: int | None = None,
    title: str = "",
) -> Figure:
    """One panel beside the other; a deviation is a band around its mean. See :func:`remarks`."""
    fig, places = look.figure(len(panels), columns=columns)
    for ax, panel in zip(places, panels, strict=True):
        _draw_panel(ax, panel)
        places_x = [x for line in panel.lines for xs, _ in line.curve.parts for x in xs]
        if log_x:
            ax.set_xscale("log")
        elif places_x:
            _whole_numbers(ax, places_x)
        if log_y and panel.is_positive:
            axes.log_axis(ax, min(panel.heights), max(panel.heights))
        if panel.shaded is not None:
            ax.legend(title=panel.shaded, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        elif panel.apart and len(panel.lines) > 1:
            longest = max(len(line.label) for line in panel.lines)
            room = 72 * fig.get_size_inches()[0] / axes.columns_of(ax)
            legend_above(ax, columns=max(1, int(room / (4.6 * longest + 40))))
    shared = [ax for ax, panel in zip(places, panels, strict=True) if panel.shaded is None and not panel.apart]
    return look.finish(fig, title=title, legend_from=shared)


def remarks(panels: Sequence[Panel], *, log_y: bool) -> list[str]:
    """What cannot be drawn as asked for, in words."""
    linear = [panel.name for panel in panels if log_y and not panel.is_positive]
    return [f"{name} is not positive throughout: its axis stays linear." for name in linear]


def _draw_panel(ax: Axes, panel: Panel) -> None:
    shades = _shades(len(panel.lines))
    markers = max((len(x) for line in panel.lines for x, _ in line.curve.parts), default=0) <= _MANY_POINTS
    styles = [
        style_of(line.number) | ({} if panel.shaded is None else {"color": shade})
        for line, shade in zip(panel.lines, shades, strict=True)
    ]
    for line, style in zip(panel.lines, styles, strict=True):
        # Faintly behind the smoothed lines; the axis keeps to most of it, not to its spikes.
        for x, y in [(line.raw.x, line.raw.mean), *line.raw.tails] if line.raw else []:
            ax.plot(x, y, color=style["color"], alpha=0.25, linewidth=0.7, marker="", linestyle="-", zorder=1)
    for line, style in zip(panel.lines, styles, strict=True):
        _draw_curve(ax, line.curve, figure_text(line.label), style if markers else {**style, "marker": ""})
    for place, (label, level) in enumerate(panel.levels.items()):
        dashes = ("--", ":", "-.")[place % 3]
        ax.axhline(level, color="0.45", linewidth=1.0, linestyle=dashes, label=figure_text(label))
    if panel.title:
        ax.set_title(figure_text(panel.title))
    ax.set_xlabel(panel.xlabel)
    axes.label(ax, panel.ylabel)


def _whole_numbers(ax: Axes, xs: Sequence[float]) -> None:
    """Ticks at whole numbers, also where few evaluations would give ticks at fractions of a step."""
    from matplotlib.ticker import MaxNLocator

    if max(xs) - min(xs) < 1:
        ax.set_xlim(min(xs) - 1, max(xs) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def _draw_curve(ax: Axes, drawn: Curve, label: str, style: dict[str, Any]) -> None:
    if drawn.x:
        ax.plot(drawn.x, drawn.mean, label=label, markersize=3, **style)
        if drawn.deviation is not None:
            low = [m - d for m, d in zip(drawn.mean, drawn.deviation, strict=True)]
            high = [m + d for m, d in zip(drawn.mean, drawn.deviation, strict=True)]
            ax.fill_between(drawn.x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    for place, (x, y) in enumerate(drawn.tails):
        named: dict[str, Any] = {} if drawn.x or place else {"label": label}
        marker = style["marker"] if len(x) == 1 else ""
        ax.plot(x, y, **{**style, "linewidth": 0.8, "alpha": 0.8, "marker": marker}, **named)


def _shades(count: int) -> list[Any]:
    """Colours that go with an ordered quantity, from dark to light but never pale."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"]
    return [shades(0.85 * place / max(1, count - 1)) for place in range(count)]
