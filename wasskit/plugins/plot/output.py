"""Figures where the command line says, in the look that it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.pictures.look import Look
from wasskit.pictures.style import save_figure
from wasskit.plugins.plot.options import FORMATS, FigureOptions
from wasskit.report import Report, show

_DPI = {"paper": 300, "screen": 144}


def look_of(options: FigureOptions) -> Look:
    """The look that is asked for."""
    return Look(options.style, options.width, options.title)


def finish(report: Report, options: FigureOptions, *, json: bool) -> dict[str, Any]:
    """Draw a report's figures where the command line says, print it; the result, with the paths of figures.

    Raises:
        UserError: ``--output`` names a file where a folder is needed, or one that is there already, or
            cannot be written.
    """
    paths = figure_paths(options, list(report.figures))
    if options.output is not None:
        options.files.refuse_existing(*(path for own in paths for path in own))
    written = []
    for own, draw in zip(paths, report.figures.values(), strict=True):
        figure = draw()
        written += [save_figure(figure, path, dpi=_DPI[options.style]) for path in own]
    show(report)
    if not json:
        for path in written:
            console.result(f"Figure: {console.escape(str(path))}")
    return {"figures": [str(path) for path in written], **report.result}


def figure_paths(options: FigureOptions, stems: Sequence[str]) -> list[list[Path]]:
    """The files of each figure: the one that ``--output`` names, or one for each format in the folder."""
    output = options.output or Path("plots")
    if output.suffix[1:].lower() in FORMATS:
        if len(stems) > 1:
            raise UserError(f"--output {output}: this command draws several figures, so name a folder.")
        return [[output]]
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file, neither .png, .pdf nor .svg: name a folder or such a file.")
    return [[output / f"{stem}.{kind}" for kind in dict.fromkeys(options.format)] for stem in stems]
