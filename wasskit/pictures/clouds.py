"""Clouds of colours in the RGB cube."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from wasskit.pictures.look import Look
from wasskit.pictures.maps import Array, subsampled
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_palettes(palettes: Mapping[str, Array], look: Look, *, points: int = 4_000, title: str = "") -> Figure:
    """One panel per palette: its colours as points in the RGB cube, each in its own colour."""
    columns = min(len(palettes), 3 if len(palettes) != 4 else 2)
    fig, axes = look.figure(len(palettes), columns=columns, ratio=1.0, projection="3d")
    for ax, (name, colours) in zip(axes, palettes.items(), strict=True):
        chosen = subsampled(colours, np.random.default_rng(0), points)
        # Light colours get a thin edge: on white paper they would vanish.
        edges = np.where(chosen.mean(axis=1, keepdims=True) > 0.85, 0.6, chosen)
        scatter: Any = ax.scatter
        scatter(*chosen.T, c=chosen, s=4, edgecolors=edges, linewidths=0.2, depthshade=False)
        ends = (0, 1)
        ax.set(xlim=ends, ylim=ends, zlim=ends, xticks=ends, yticks=ends, zticks=ends)
        ax.tick_params(labelsize=7, pad=-3)
        for axis, word in ((ax.xaxis, "red"), (ax.yaxis, "green"), (ax.zaxis, "blue")):  # type: ignore[attr-defined]
            axis.set_label_text(word, fontsize=8)
            axis.labelpad = -10
        ax.set_title(figure_text(name))
        ax.set_box_aspect((1, 1, 1), zoom=0.9)  # type: ignore[call-arg, arg-type]
        ax.view_init(elev=22, azim=-55)  # type: ignore[attr-defined]
    return look.finish(fig, title=title)
