"""Figures of metrics: learning curves, metrics over the nested dimensions, final bars, accuracy against cost."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from wasskit.plugins.plot.files import CostTable
from wasskit.plugins.plot.look import Look, style_of
from wasskit.plugins.plot.metrics import Curve, Value, curve, families, heading, is_ranked, nested, unit
from wasskit.plugins.plot.runs import Group
from wasskit.plugins.plot.tables import decimals
from wasskit.text import figure_text, plain_text
from wasskit.training.figures import label_points

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY_POINTS = 20
_COSTS = {"operations": "multiply-adds", "mean_dim": "mean number of coordinates used"}


def draw_curves(
    groups: Sequence[Group],
    keys: Sequence[str],
    look: Look,
    *,
    epochs: bool,
    smooth: float = 0.0,
    log_x: bool = False,
    log_y: bool = False,
    columns: int | None = None,
    split: bool = False,
    apart: bool = False,
    title: str = "",
) -> tuple[Figure, list[str]]:
    """One panel per metric, one line per group: the mean over seeds within a band of one standard deviation.

    For one group, a metric at several nested dimensions is one panel with a line for each, unless they are ``split``.
    ``apart``: the groups of each command have panels of their own, for metrics that only share their name.

    Returns:
        The figure, and what could not be drawn as asked for, in words.
    """
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, list[str]] = {}
    bases = families(keys) if len(groups) == 1 and not split else {}
    for key in keys:
        at = nested(key)
        panels.setdefault(at[0] if at and at[0] in bases else key, []).append(key)
    numbered = list(enumerate(groups))
    commands = list(dict.fromkeys(group.runs[0].command for group in groups)) if apart else [""]
    places = [
        (command, name, members, [(i, g) for i, g in numbered if not apart or g.runs[0].command == command])
        for name, members in panels.items()
        for command in commands
    ]
    fig, axes = look.figure(len(places), columns=columns)
    notes = []
    for ax, (command, name, members, own) in zip(axes, places, strict=True):
        shades = _shades(len(members))
        found: list[tuple[Curve, str, dict[str, Any]]] = []
        for line, key in enumerate(members):
            for number, group in own:
                style = style_of(number) if len(members) == 1 else {**style_of(line), "color": shades[line]}
                drawn = curve(group, key, epochs=epochs, smooth=smooth)
                if drawn is None:
                    continue
                found.append((drawn, group.caption if len(members) == 1 else key.rpartition("@")[2], style))
                if smooth:
                    _draw_raw(ax, group, key, epochs, style["color"])
        markers = max((len(x) for drawn, _, _ in found for x, _ in drawn.parts), default=0) <= _MANY_POINTS
        for drawn, label, style in found:
            _draw_curve(ax, drawn, figure_text(label), style if markers else {**style, "marker": ""})
        points = [
            point for drawn, _, _ in found for xs, ys in drawn.parts for point in zip(xs, ys, strict=True)
        ]
        values = [y for _, y in points]
        if len(commands) > 1:
            ax.set_title(figure_text(command))
        ax.set_xlabel(
            "epoch" if epochs else "step" if any(g.is_training for _, g in own) else "quantity varied"
        )
        _label(ax, name, values)
        if log_x:
            ax.set_xscale("log")
        elif points:
            # Single evaluations are no reason for ticks at fractions of a step.
            first, last = min(x for x, _ in points), max(x for x, _ in points)
            if last - first < 1:
                ax.set_xlim(first - 1, last + 1)
            ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        if log_y and values and min(values) > 0:
            _log_axis(ax, min(values), max(values))
        elif log_y:
            notes.append(f"{name} is not positive throughout: its axis stays linear.")
        if len(members) > 1:
            what = "K" if is_ranked(name) else "dimension"
            ax.legend(title=what, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    shared = [ax for ax, (_, _, members, _) in zip(axes, places, strict=True) if len(members) == 1]
    return look.finish(fig, title=title, legend_from=shared), notes


def _label(ax: Axes, key: str, values: Iterable[float]) -> None:
    """The vertical axis: its name in lines that fit a small panel, and no magnified rounding errors."""
    ax.set_ylabel(_wrapped(heading(key) + unit(key, values), 18))
    _short_numbers(ax, "y")
    low, high = ax.get_ylim()
    middle = (low + high) / 2
    if high - low < 1e-4 * abs(middle):
        ax.set_ylim(middle - 0.01 * abs(middle), middle + 0.01 * abs(middle))


def _short_numbers(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Powers of ten stand at the end of the axis instead of in each number."""
    ax.ticklabel_format(axis=axis, style="sci", scilimits=(-3, 5), useMathText=True, useOffset=False)


def _draw_curve(ax: Axes, drawn: Curve, label: str, style: Mapping[str, Any]) -> None:
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


def _log_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis; within a decade its ticks are plain numbers."""
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    ax.set_yscale("log")
    if high < 10 * low:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())


def _draw_raw(ax: Axes, group: Group, key: str, epochs: bool, colour: Any) -> None:
    """What the smoothed line was made of, faintly behind it; the axis keeps to most of it, not to its spikes."""
    raw = curve(group, key, epochs=epochs)
    if raw is not None:
        for x, y in [(raw.x, raw.mean), *raw.tails]:
            ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.7, marker="", linestyle="-", zorder=1)


def draw_dims(
    groups: Sequence[Group],
    values: Sequence[Mapping[str, Value]],
    bases: Mapping[str, Sequence[int]],
    look: Look,
    *,
    log_y: bool = False,
    title: str = "",
) -> Figure:
    """One panel per metric over its dimensions (log2 axis), one line per group, deviations as bars."""
    fig, axes = look.figure(len(bases))
    spread = any(len(group.runs) > 1 for group in groups)
    for ax, (base, numbers) in zip(axes, bases.items(), strict=True):
        for number, (group, own) in enumerate(zip(groups, values, strict=True)):
            at = [n for n in numbers if f"{base}@{n}" in own]
            if not at:
                continue
            entries = [own[f"{base}@{n}"] for n in at]
            bars = [entry.deviation or 0.0 for entry in entries]
            # Bars of different groups stand side by side rather than on top of each other.
            shift = 2 ** (0.08 * (number - (len(groups) - 1) / 2)) if spread else 1.0
            ax.errorbar(
                [n * shift for n in at], [entry.mean for entry in entries], yerr=bars if any(bars) else None,
                capsize=2, markersize=3.5, linewidth=1.3, label=figure_text(group.caption), **style_of(number),
            )  # fmt: skip
        _log2_axis(ax, numbers)
        ax.set_xlabel("K" if is_ranked(base) else "dimension")
        _label(ax, base, [own[f"{base}@{n}"].mean for own in values for n in numbers if f"{base}@{n}" in own])
        if log_y:
            ax.set_yscale("log", nonpositive="mask")
    return look.finish(fig, title=title, legend_from=axes)


def _log2_axis(ax: Axes, numbers: Sequence[int]) -> None:
    """A tick at every number, and as many labels as fit a panel of this width."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    figure = ax.figure
    columns = ax.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    room = max(3, int((figure.get_size_inches()[0] / columns - 0.7) / 0.26))  # type: ignore[union-attr]
    every = -(-len(numbers) // room)
    ax.set_xticks(list(numbers), [str(n) if place % every == 0 else "" for place, n in enumerate(numbers)])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_bars(
    groups: Sequence[Group],
    values: Sequence[Mapping[str, Value]],
    keys: Sequence[str],
    look: Look,
    *,
    title: str = "",
) -> Figure:
    """One panel per metric, one bar per group with its value and deviation.

    Values that are close together and far from zero are points on an axis without zero: a bar cut short would lie.
    """
    from matplotlib.ticker import MaxNLocator

    columns = min(len(keys), 2 if look.width != "single" else 1)
    height = (0.5 + 0.28 * len(groups)) / (3.4 if columns > 1 else 5.0)
    fig, axes = look.figure(len(keys), columns=columns, ratio=max(0.3, height), wide=True)
    for place, (ax, key) in enumerate(zip(axes, keys, strict=True)):
        entries = {number: own[key] for number, own in enumerate(values) if key in own}
        low, high, bars = _limits(list(entries.values()))
        ax.set_xlim(low, high)
        shown = decimals([entry.mean for entry in entries.values()])
        for number in range(len(groups)):
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
        _short_numbers(ax, "x")
        first = place % columns == 0
        ax.set_yticks(range(len(groups)), [_wrapped(group.caption) if first else "" for group in groups])
        ax.set_ylim(len(groups) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(figure_text(heading(key)) + unit(key, [entry.mean for entry in entries.values()]))
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


def _wrapped(text: str, width: int = 30) -> str:
    import textwrap

    return "\n".join(map(figure_text, textwrap.wrap(plain_text(text), width)))


def draw_costs(
    tables: Sequence[tuple[str, CostTable]],
    accuracy: str,
    look: Look,
    *,
    log_y: bool = False,
    title: str = "",
) -> Figure:
    """Accuracy against cost on a logarithmic axis; one line per strategy of each run."""
    fig, (ax,) = look.figure(1, wide=look.width is None and len(tables) > 1)
    labels: list[tuple[float, float, str, Any]] = []
    number = 0
    for label, table in tables:
        for name, points in table.series(accuracy).items():
            style = style_of(number)
            shown = figure_text(" ".join(filter(None, (label, name))))
            ax.plot(
                [p.cost for p in points], [p.accuracy for p in points], label=shown, markersize=3.5, **style
            )
            few = [p for p in points if p.label and len(points) <= 12]
            labels += [(p.cost, p.accuracy, p.label, style["color"]) for p in few]
            number += 1
    ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log", nonpositive="mask")
    cost = tables[0][1].cost
    ax.set_xlabel(_COSTS.get(cost) or figure_text(cost.replace("_", " ")))
    accuracies = [p.accuracy for _, table in tables for own in table.series(accuracy).values() for p in own]
    ax.set_ylabel(figure_text(heading(accuracy)) + unit(accuracy, accuracies))
    ax.margins(y=0.12)
    look.finish(fig, title=title, legend_from=[ax])
    label_points(fig, ax, labels)
    return fig


def _shades(count: int) -> list[Any]:
    """Colours that go with an ordered quantity, from dark to light but never pale."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"]
    return [shades(0.85 * place / max(1, count - 1)) for place in range(count)]
