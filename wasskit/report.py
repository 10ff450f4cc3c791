"""How a command tells its result: a pure evaluation returns a :class:`Report`, and :func:`finish` writes and prints it.

Nothing is drawn, written or printed before: an evaluation called from Python leaves no trace. Where something else
must be done between writing and printing, :func:`write` and :func:`tell` are the two halves of :func:`finish`.
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
from wasskit.errors import UserError
from wasskit.system.documents import read_json
from wasskit.system.files import replace_file, replace_text, writing
from wasskit.text import csv_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wasskit.training.records import Summary
    from wasskit.training.run import RunDirectory


class Printable(typing.Protocol):
    """What Rich can print."""

    def __rich__(self) -> Any: ...


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

    def __rich__(self) -> console.FittedTable:
        return console.make_table(self.title, self.columns, self.rows, best=self.best, digits=self.digits)


@dataclass(frozen=True)
class Entry:
    """Values under a name of a JSON file whose other entries stay; other values under the same name stay too."""

    name: str
    values: Mapping[str, Any]


Content = Table | str | Mapping[str, Any] | Entry | Callable[[BinaryIO], object]
"""What a file of a report is made from."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Args:
        result: plain values and arrays: what ``--json`` prints and a caller from Python reads.
        tables: what is printed, in order.
        notes: sentences printed below the tables, in order.
        remarks: what else there is to say, as a log.
        warnings: what the reader must know, also with ``--quiet``.
        files: name -> content of files: a :class:`Table` (CSV with all digits), text, a mapping (JSON), an
            :class:`Entry` of a JSON file, or a function that writes it to a binary file.
        figures: file stem -> a function that draws the figure, called where it is written.
        metrics: (step, split, values) for the run's ``metrics.csv``; the step is the quantity that varies.
    """

    result: Mapping[str, Any]
    tables: Sequence[Printable] = ()
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    warnings: Sequence[str] = ()
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
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in report.files.items():
        path = folder / name
        if callable(content):
            replace_file(path, content)
        else:
            replace_text(path, _text(_joined(path, content) if isinstance(content, Entry) else content))
        written.append(path)
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


def _joined(path: Path, entry: Entry) -> dict[str, Any]:
    """The content of a JSON file with the entry in it. Raises ``UserError`` where the file holds something else."""
    content: Any = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not isinstance(content.get(entry.name, {}), dict):
        raise UserError(f"{path} is damaged: it holds no table of metrics; remove it and measure again.")
    return {**content, entry.name: {**content.get(entry.name, {}), **entry.values}}


def published(paper: Mapping[str, Any]) -> list[str]:
    """The remark that names the source of the published figures; empty where a recipe has none."""
    source = paper.get("source") if paper.get("metrics") else None
    return [f"Published: {source}"] if source else []


def show(report: Report) -> None:
    """Print a report's tables, notes, remarks and warnings."""
    if not console.is_main_process():
        return
    for table in report.tables:
        console.stdout().print(table)
    for note in report.notes:
        console.result(console.escape(note))
    for remark in report.remarks:
        console.log(console.escape(remark))
    for warning in report.warnings:
        console.warn(warning)


def tell(report: Report, written: Sequence[Path]) -> dict[str, Any]:
    """Print a report and say where everything is; the result, with the paths of figures."""
    show(report)
    figures = [path for path in written if path.parent.name == "figures"]
    if not console.is_json():
        for path in written:
            kind = "Figure" if path in figures else "Table" if path.suffix == ".csv" else "Results"
            console.result(f"{kind}: {console.escape(str(path))}")
    return {**report.result, "figures": [str(path) for path in figures]}


def finish(report: Report, folder: Path, *, suffixes: Sequence[str] = (".png",)) -> dict[str, Any]:
    """Write a report into ``folder``, print it, say where everything is; the result, with the paths of figures."""
    return tell(report, write(report, folder, suffixes=suffixes))


def conclude(
    run: RunDirectory, summary: Summary, report: Report, written: Sequence[Path], following: Sequence[Sequence[object]]
) -> dict[str, Any]:
    """The end of a training: its report, how long it took, what to do next; the summary with the report's result.

    Args:
        following: the commands that use the run, each as its words and its arguments after the run directory.
    """
    told = tell(report, written)
    rate = f", {summary.samples_per_second:,.0f} images/s" if summary.samples_per_second else ""
    waiting = f", {100 * summary.waiting_share:.1f} % of it waiting for data"
    console.log(f"Trained in {summary.wall_seconds:.1f} s{rate}{waiting}.")
    if not console.is_json():
        console.result("Next:")
        for words, *arguments in following:
            console.result(f"  {console.command_line(str(words), run.path, *arguments)}")
    return {**summary.as_dict(), "run": str(run.path), **told}
