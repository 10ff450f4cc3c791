"""Axes: names that fit a small panel, short numbers, logarithmic scales with plain ticks, square windows."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from wasskit.text import figure_text, plain_text

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes


def label(ax: Axes, text: str) -> None:
    """The vertical axis: its name in lines that fit a small panel, and no magnified rounding errors."""
    ax.set_ylabel(wrapped(text, 18))
    short_numbers(ax, "y")
    low, high = ax.get_ylim()
    middle = (low + high) / 2
    if high - low < 1e-4 * abs(middle):
        ax.set_ylim(middle - 0.01 * abs(middle), middle + 0.01 * abs(middle))


def short_numbers(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Powers of ten stand at the end of the axis instead of in each number."""
    ax.ticklabel_format(axis=axis, style="sci", scilimits=(-3, 5), useMathText=True, useOffset=False)


def log_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis; within a decade, and where they are short, its ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

    ax.set_yscale("log")
    if high < 10 * low:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())
    elif low >= 1e-3 and high <= 1e4:
        # Two decades have one or two powers of ten alone.
        few = high < 100 * low
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def log2_axis(ax: Axes, numbers: Sequence[int]) -> None:
    """A tick at every number, and as many labels as fit a panel of this width."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    figure = ax.figure
    room = max(3, int((figure.get_size_inches()[0] / columns_of(ax) - 0.7) / 0.26))  # type: ignore[union-attr]
    every = -(-len(numbers) // room)
    ax.set_xticks(list(numbers), [str(n) if place % every == 0 else "" for place, n in enumerate(numbers)])
    ax.xaxis.set_minor_locator(NullLocator())


def columns_of(ax: Axes) -> int:
    """How many panels stand side by side in the figure."""
    return ax.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]


def wrapped(text: str, width: int = 30) -> str:
    import textwrap

    return "\n".join(map(figure_text, textwrap.wrap(plain_text(text), width)))


def square(ax: Axes, clouds: Sequence[np.ndarray[Any, Any]]) -> None:
    """Equal scales, all points (N, 2) in view but the farthest thousandth, which must not shrink the rest to a dot."""
    points = np.concatenate(clouds)
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.08, 1e-12)
    ax.set_xlim(middle[0] - half, middle[0] + half)
    ax.set_ylim(middle[1] - half, middle[1] + half)
    ax.set_aspect("equal", adjustable="box")
