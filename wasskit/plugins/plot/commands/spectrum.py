"""``wasskit plot spectrum``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotSpectrum(FigureOptions, CommandOptions):
    """Options of ``wasskit plot spectrum``."""

    sources: tuple[Path, ...] = argument(
        help="Run directories, or embeddings (.npy of shape (samples, features)).",
        complete=complete_sources,
        metavar="RUN|FILE...",
    )
    normalise: bool = option(True, help="Divide each embedding by its length first.", panel="Embeddings")
    labels: tuple[str, ...] | None = option(
        None, help="Names of the curves, in order.", panel="Figure", show_default="from runs and files"
    )
    log_x: bool = option(False, help="Logarithmic horizontal axis.", panel="Axes", flag="--log-x")


def body(config: PlotSpectrum, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.errors import UserError
    from wasskit.pictures.look import Look
    from wasskit.pictures.spectra import draw_spectra
    from wasskit.plugins.plot.common import say_figures
    from wasskit.plugins.plot.look import save
    from wasskit.plugins.plot.sources import spectra_of

    spectra: dict[str, list[float]] = {}
    for source in config.sources:
        for name, values in spectra_of(source, normalise=config.normalise).items():
            label = name if name not in spectra else f"{source.resolve().parent.name}/{name}"
            spectra[label] = values
    if config.labels is not None:
        if len(config.labels) != len(spectra):
            raise UserError(
                f"--labels names {len(config.labels)}, but the curves are {len(spectra)}: {', '.join(spectra)}."
            )
        spectra = dict(zip(config.labels, spectra.values(), strict=True))
    look = Look(config.style, config.width, config.title)
    fig = draw_spectra(spectra, look, log_x=config.log_x, title="Singular spectra")
    figures = save(fig, config, "spectrum", single=True)
    say_figures(config, figures)
    return {"figures": [str(path) for path in figures], "spectra": spectra}


command = Command(
    "plot spectrum",
    PlotSpectrum,
    body,
    "Draw singular spectra of embeddings.\n\n"
    "Natural logarithms of the singular values of the covariance, in falling order: a flat line is a representation "
    "that uses every direction, a cliff is dimensional collapse. From the files of runs (spectrum*.npz, or a list "
    "`spectrum` in a JSON file), or computed from embeddings.",
    (
        "wasskit plot spectrum runs/ssl/byol runs/ssl/byol-w2",
        "wasskit plot spectrum embeddings.npy --log-x --format pdf",
    ),
)
