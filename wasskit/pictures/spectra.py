"""Spectra: logarithms of singular values over their rank."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence

from wasskit.pictures.look import Look, style_of
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Natural logarithms that the vertical axis spans at least, a factor of 20: a flat spectrum shall look flat.
_RANGE = 3.0


def draw_spectra(
    spectra: Mapping[str, Sequence[float]],
    look: Look,
    *,
    references: Mapping[str, Sequence[float]] | None = None,
    log_x: bool = False,
    title: str = "",
) -> Figure:
    """Logarithms of singular values over their rank. Directions without variance (-inf) end a line and are counted.

    Args:
        references: spectra to compare with, drawn as dashes behind.
    """
    fig, (ax,) = look.figure(1)
    for number, (name, values) in enumerate(spectra.items()):
        finite = [value for value in values if math.isfinite(value)]
        gone = len(values) - len(finite)
        style = style_of(number)
        few = len(finite) <= 20
        ax.plot(
            range(1, len(finite) + 1), finite,
            label=figure_text(f"{name} ({gone} of {len(values)} zero)" if gone else name),
            **{**style, "marker": style["marker"] if few else ""}, markersize=3,
        )  # fmt: skip
    for place, (name, values) in enumerate((references or {}).items()):
        ax.plot(
            range(1, len(values) + 1), values, color="0.35", linestyle=("--", ":")[place % 2], linewidth=1.1, marker="",
            label=figure_text(name), zorder=1,
        )  # fmt: skip
    if log_x:
        ax.set_xscale("log")
    low, high = ax.get_ylim()
    missing = max(0.0, _RANGE - (high - low)) / 2
    ax.set_ylim(low - missing, high + missing)
    ax.set_xlabel("rank of the singular value")
    ax.set_ylabel("log singular value")
    return look.finish(fig, title=title, legend_from=[ax])
