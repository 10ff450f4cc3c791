"""``wasskit plot spectrum``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.plugins.plot.options import FigureOptions, complete_sources


@dataclass(frozen=True, kw_only=True)
class PlotSpectrum(CommandOptions):
    """Options of ``wasskit plot spectrum``."""

    figure: FigureOptions = FigureOptions()
    sources: tuple[Path, ...] = argument(
        help="Run directories, or embeddings (samples, features): .npy, .npz:KEY, .safetensors:KEY, .parquet, .csv.",
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
    from wasskit.plugins.plot.output import finish, look_of
    from wasskit.plugins.plot.reports import spectrum_report
    from wasskit.plugins.plot.sources import named, spectra_of

    spectra = named(config.sources, lambda source: spectra_of(source, normalise=config.normalise))
    if config.labels is not None:
        if len(config.labels) != len(spectra):
            raise UserError(
                f"--labels names {len(config.labels)}, but the curves are {len(spectra)}: {', '.join(spectra)}."
            )
        spectra = dict(zip(config.labels, spectra.values(), strict=True))
    return finish(spectrum_report(spectra, look_of(config.figure), log_x=config.log_x), config.figure, json=config.json)


command = Command(
    "plot spectrum",
    PlotSpectrum,
    body,
    "Draw singular spectra of embeddings.\n\n"
    "Natural logarithms of the singular values of the covariance, in falling order: a flat line is a representation "
    "that uses every direction, a cliff is dimensional collapse. From the files of runs (spectrum*.npz, or a list "
    "`spectrum` in a JSON file), or computed from embeddings: those of a file, or of the test images or vectors of a "
    "run without such files.",
    (
        "wasskit plot spectrum runs/ssl/byol runs/ssl/byol-w2",
        "wasskit plot spectrum embeddings.npy --log-x --format pdf",
    ),
)
