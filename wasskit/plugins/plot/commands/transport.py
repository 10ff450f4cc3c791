"""``wasskit plot transport``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotTransport(CommandOptions):
    """Options of ``wasskit plot transport``."""

    figure: FigureOptions = FigureOptions()
    sources: tuple[Path, ...] = argument(
        help="Run directories or .npz files; or clouds as .npy: SOURCE MAPPED, or SOURCE TARGET MAPPED.",
        complete=complete_sources,
        metavar="RUN|FILE...",
    )
    arrows: bool = option(True, help="Arrows from points to their images.", panel="Figure")


def body(config: PlotTransport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import transport_report
    from wasskit.plugins.plot.sources import transports_of

    transports = transports_of(config.sources)
    return finish(
        transport_report(transports, look_of(config.figure), arrows=config.arrows), config.figure, json=config.json
    )


command = Command(
    "plot transport",
    PlotTransport,
    body,
    "Draw transport maps: arrows and the warped grid.\n\n"
    "Source, target and the image of the source with arrows between them, the inverse map where there is one, and a "
    "regular grid with its image. Maps in more than two dimensions are shown in the plane of the target's first two "
    "principal components. Row i of MAPPED is the image of row i of SOURCE.",
    (
        "wasskit plot transport runs/w2gn/8gaussians",
        "wasskit plot transport source.npy target.npy mapped.npy --format pdf",
    ),
)
