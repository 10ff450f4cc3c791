"""``wasskit plot transport``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotTransport(FigureOptions, CommandOptions):
    """Options of ``wasskit plot transport``."""

    sources: tuple[Path, ...] = argument(
        help="Run directories or .npz files; or clouds as .npy: SOURCE MAPPED, or SOURCE TARGET MAPPED.",
        complete=complete_sources,
        metavar="RUN|FILE...",
    )
    arrows: bool = option(True, help="Arrows from points to their images.", panel="Figure")


def body(config: PlotTransport, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.pictures.look import Look
    from wasskit.pictures.maps import draw_transport
    from wasskit.plugins.plot.common import say_figures
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.sources import transports_of

    transports = transports_of(config.sources)
    look = Look(config.style, config.width, config.title)
    figures, notes = [], []
    for number, transport in enumerate(transports):
        fig, remarks = draw_transport(transport, look, arrows=config.arrows, title=transport.name)
        stem = "transport" if len(transports) == 1 else f"transport-{number + 1}"
        figures += save(fig, config, stem, single=len(transports) == 1)
        notes += [f"{transport.name}: {remark}" for remark in remarks]
    say_figures(config, figures, notes)
    return {"figures": [str(path) for path in figures], "maps": [t.name for t in transports], "notes": notes}


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
