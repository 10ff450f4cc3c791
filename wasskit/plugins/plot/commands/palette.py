"""``wasskit plot palette``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotPalette(CommandOptions):
    """Options of ``wasskit plot palette``."""

    figure: FigureOptions = FigureOptions()
    sources: tuple[Path, ...] = argument(
        help="Run directories, .npz or .npy files of colours, or images.",
        complete=complete_sources,
        metavar="RUN|FILE...",
    )
    points: int = option(4000, help="Colours drawn of each palette.", panel="Figure", min=1, max=200_000)


def body(config: PlotPalette, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import palette_report
    from wasskit.plugins.plot.sources import named, palettes_of

    palettes = named(config.sources, palettes_of)
    return finish(
        palette_report(palettes, look_of(config.figure), points=config.points), config.figure, json=config.json
    )


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
