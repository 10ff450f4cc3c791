"""``wasskit plot palette``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotPalette(FigureOptions, CommandOptions):
    """Options of ``wasskit plot palette``."""

    sources: tuple[Path, ...] = argument(
        help="Run directories, .npz or .npy files of colours, or images.",
        complete=complete_sources,
        metavar="RUN|FILE...",
    )
    points: int = option(4000, help="Colours drawn of each palette.", panel="Figure", min=1, max=200_000)


def body(config: PlotPalette, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.errors import UserError
    from wasskit.pictures.clouds import draw_palettes
    from wasskit.pictures.look import Look
    from wasskit.plugins.plot.common import say_figures
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.sources import palettes_of

    palettes: dict[str, Any] = {}
    for source in config.sources:
        for name, colours in palettes_of(source).items():
            palettes[name if name not in palettes else f"{source.resolve().parent.name}/{name}"] = colours
    if len(palettes) > 12:
        raise UserError(f"{len(palettes)} palettes do not fit one figure: give at most 12.")
    look = Look(config.style, config.width, config.title)
    fig = draw_palettes(palettes, look, points=config.points, title="Palettes")
    figures = save(fig, config, "palette", single=True)
    say_figures(config, figures)
    return {
        "figures": [str(path) for path in figures],
        "palettes": {
            name: {"colours": len(c), "mean": c.mean(axis=0).tolist()} for name, c in palettes.items()
        },
    }


command = Command(
    "plot palette",
    PlotPalette,
    body,
    "Draw the colours of images as clouds.\n\n"
    "Each palette is a panel: points in the RGB cube, each in its own colour. From the palettes that a colour transfer "
    "wrote into its run directory (palette*.npz), or from any image.",
    (
        "wasskit plot palette runs/w2gn/color",
        "wasskit plot palette source.jpg target.jpg transferred.png -o palettes.pdf",
    ),
)
