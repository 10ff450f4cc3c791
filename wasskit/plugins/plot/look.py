"""Saving figures where the command line says."""

from __future__ import annotations

import typing
from pathlib import Path

from wasskit.errors import UserError
from wasskit.pictures.style import save_figure
from wasskit.plugins.plot.options import FORMATS, FigureOptions

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = {"paper": 300, "screen": 144}


def save(fig: Figure, config: FigureOptions, stem: str, *, single: bool = False) -> list[Path]:
    """Write a figure under ``stem`` in every format asked for.

    Args:
        single: the command draws one figure only, so ``--output`` may name a file.

    Raises:
        UserError: ``--output`` names a file where a folder is needed, or one that is there already, or cannot be
            written.
    """
    output = config.output or Path("plots")
    suffix = output.suffix[1:].lower()
    dpi = _DPI[config.style]
    if suffix in FORMATS:
        if not single:
            raise UserError(f"--output {output}: this command draws several figures, so name a folder.")
        config.claim(output)
        return [save_figure(fig, output, dpi=dpi)]
    if output.exists() and not output.is_dir():
        raise UserError(
            f"--output {output} is a file, neither .png, .pdf nor .svg: name a folder or such a file."
        )
    paths = [output / f"{stem}.{kind}" for kind in dict.fromkeys(config.format)]
    if config.output is not None:
        config.claim(*paths)
    return [save_figure(fig, path, dpi=dpi) for path in paths]
