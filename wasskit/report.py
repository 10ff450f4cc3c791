"""How a command tells its result: a pure evaluation returns a :class:`Report`, and :func:`finish` writes and prints it.

Nothing is drawn, written or printed before: an evaluation called from Python leaves no trace.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from wasskit import console
from wasskit.console import jsonable
from wasskit.system.files import replace_file, replace_text
from wasskit.text import csv_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Table", "finish", "show", "write"]


@dataclass(frozen=True)
class Table:
    """Headings and rows, as :func:`wasskit.console.table` prints them.

    Args:
        rows: entries: text, numbers (printed with ``digits`` decimals) or None (a dash).
        best: columns (by position) whose largest or smallest entry is set in bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str | None = None
    digits: int = 2
    best: Mapping[int, Literal["max", "min"]] | None = None


Content = Table | str | Mapping[str, Any] | Callable[[BinaryIO], object]
"""What a file of a report is made from."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Args:
        result: plain values and arrays: what ``--json`` prints and a caller from Python reads.
        tables: what is printed, in order.
        notes: sentences printed below the tables, in order.
        files: name -> content of files: a :class:`Table` (CSV with all digits), text, a mapping (JSON), or a function
            that writes it to a binary file.
        figures: file stem -> a function that draws the figure, called where it is written.
        metrics: (step, split, values) for the run's ``metrics.csv``; the step is the quantity that varies.
    """

    result: Mapping[str, Any]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    files: Mapping[str, Content] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    metrics: Sequence[tuple[int, str, Mapping[str, float]]] = ()


def write(report: Report, folder: Path, *, suffixes: Sequence[str] = (".png",)) -> list[Path]:
    """Write a report's files into ``folder`` and its figures into ``folder/figures``; the paths, in this order.

    On ranks other than 0 nothing is written.

    Args:
        suffixes: the formats of figures: .png, .pdf, .svg.
    """
    if not console.is_main_process():
        return []
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in report.files.items():
        if callable(content):
            replace_file(folder / name, content)
        else:
            replace_text(folder / name, _text(content))
        written.append(folder / name)
    if report.figures:
        from wasskit.pictures.style import save_figure

        for stem, draw in report.figures.items():
            figure = draw()
            written += [save_figure(figure, folder / "figures" / f"{stem}{suffix}") for suffix in suffixes]
    return written


def _text(content: Table | str | Mapping[str, Any]) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Table):
        return csv_text([content.columns, *content.rows])
    return json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"


def show(report: Report) -> None:
    """Print a report's tables and notes."""
    for table in report.tables:
        console.table(table.title, table.columns, table.rows, best=table.best, digits=table.digits)
    for note in report.notes:
        console.result(console.escape(note))


def finish(report: Report, folder: Path, *, suffixes: Sequence[str] = (".png",)) -> dict[str, Any]:
    """Write a report into ``folder``, print it, say where everything is; the result, with the paths of figures."""
    written = write(report, folder, suffixes=suffixes)
    show(report)
    figures = [path for path in written if path.parent.name == "figures"]
    if not console.is_json():
        for path in written:
            console.result(f"{'Figure' if path in figures else 'Results'}: {console.escape(str(path))}")
    return {**report.result, "figures": [str(path) for path in figures]}
