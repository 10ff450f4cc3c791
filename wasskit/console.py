"""What the user sees: results on stdout, logs and progress on stderr, JSON on request.

Rich is imported when something is printed, not before: ``--help`` and completion do without.
"""

from __future__ import annotations

import os
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from wasskit.text import terminal_text

if typing.TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table


_FIGURE = re.compile(r"-|[-+]?\d[\d,.]*(?:e[-+]?\d+)?(?: ± \S+)?(?: \(.*\))?")
"""A number as a text of a table, perhaps with its deviation or its p-value."""
_ROOMY = 60
"""Letters of a terminal's line from which the names of a table's rows may take half of it."""


@dataclass
class _State:
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    said: set[str] = field(default_factory=set)


_state = _State()


def configure(*, quiet: bool = False, verbose: bool = False, json: bool = False) -> None:
    """Set how much is printed, for the command that is running."""
    _state.quiet, _state.verbose, _state.json = quiet, verbose, json
    _state.said.clear()


def is_verbose() -> bool:
    return _state.verbose


def is_quiet() -> bool:
    return _state.quiet


def is_json() -> bool:
    """Whether the result is printed as JSON."""
    return _state.json


def is_main_process() -> bool:
    """Whether this process prints: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def stderr() -> Console:
    """The console of logs, progress and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


def stdout() -> Console:
    """The console of results; with ``--json`` human-readable results go to stderr, stdout is left to the JSON."""
    from rich.console import Console

    if _state.json:
        return stderr()
    terminal = sys.stdout.isatty()
    return Console(highlight=False, emoji=False, soft_wrap=not terminal, width=None if terminal else 140)


def log(message: str) -> None:
    """Say what is going on (stderr; nothing with ``--quiet`` or on other ranks)."""
    if not _state.quiet and is_main_process():
        stderr().print(message)


def log_once(message: str) -> None:
    """:func:`log`, but for what this command has said so before."""
    if message not in _state.said:
        _state.said.add(message)
        log(message)


def warn(message: str) -> None:
    """Say what the user should know even with ``--quiet`` (stderr)."""
    if is_main_process():
        stderr().print(f"[yellow]Warning:[/yellow] {escape(message)}")


def result(message: str) -> None:
    """Print a line of results on stdout."""
    if is_main_process():
        stdout().print(message)


def command_line(path: str, *arguments: object) -> str:
    """A command line to print, its arguments quoted for a shell."""
    import shlex

    return escape(shlex.join(["wasskit", *path.split(), *map(str, arguments)]))


def escape(text: str) -> str:
    """Text that Rich prints as it is: see :func:`wasskit.text.terminal_text`."""
    return terminal_text(text)


def table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    best: Mapping[int, typing.Literal["max", "min"]] | None = None,
    digits: int = 2,
) -> None:
    """Print a table of results on stdout.

    Args:
        columns: headings; columns whose entries are all numbers, or texts of numbers, are aligned right.
        rows: entries: text, numbers (floats are printed with ``digits`` decimals) or None (a dash).
        best: columns (by position) whose best entry is set in bold.
    """
    if not is_main_process():
        return
    stdout().print(make_table(title, columns, rows, best=best, digits=digits))


def make_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    best: Mapping[int, typing.Literal["max", "min"]] | None = None,
    digits: int = 2,
) -> FittedTable:
    """The table that :func:`table` prints."""
    body = [list(row) for row in rows]
    marked: dict[int, int] = {}
    for column, order in (best or {}).items():
        values = ((row[column], i) for i, row in enumerate(body))
        numbers = [(x, i) for x, i in values if isinstance(x, int | float) and x == x]  # NaN is none
        if len(numbers) > 1:
            marked[column] = (max if order == "max" else min)(numbers, key=lambda pair: pair[0])[1]
    cells = [[format_value(value, digits) for value in row] for row in body]
    for column, i in marked.items():
        cells[i][column] = f"[bold]{cells[i][column]}[/bold]"
    headings = [
        (escape(heading), all(_is_figure(row[column]) for row in body)) for column, heading in enumerate(columns)
    ]
    return FittedTable(None if title is None else escape(title), headings, cells)


def _is_figure(value: Any) -> bool:
    """Whether an entry is a number, none, or a number with what belongs to it: ``93.1 ± 0.4``, ``+1.2 (0.04)``."""
    return isinstance(value, int | float | None) or (isinstance(value, str) and _FIGURE.fullmatch(value) is not None)


@dataclass(frozen=True)
class FittedTable:
    """A table whose numbers stay whole in a terminal of any width.

    Headings and texts are wrapped, between words where there is room. Columns that still do not fit follow in a table
    below, beside the texts that the first one begins with, or its first numbers.

    Args:
        columns: headings, and whether numbers stand below them.
        rows: the entries. All texts are Rich's markup.
    """

    title: str | None
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        from rich.measure import Measurement

        title = self.title
        for part in self._parts(console, options):
            drawn = self._table(title, part, options.max_width)
            most = Measurement.get(console, options.update(width=10_000), drawn).maximum
            if console.is_terminal and most > options.max_width:
                # Rich would shorten numbers and texts alike.
                for i, column in zip(part, drawn.columns, strict=True):
                    single = i == 0 and not any(" " in row[0] for row in self.rows)
                    column.width = column.min_width if single or self.columns[i][1] else None
                    column.min_width = None
            yield drawn
            title = None

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[list[int]]:
        """The columns of each table: all of them where the output is no terminal."""
        from rich.measure import Measurement

        names = [i for i, _ in takewhile(lambda column: not column[1][1], enumerate(self.columns))] or [0]
        part = names
        for i in range(len(names), len(self.columns)):
            wider = self._table(None, [*part, i], options.max_width)
            least = Measurement.get(console, options.update(width=10_000), wider).minimum
            if part != names and console.is_terminal and least > options.max_width:
                yield part
                part = names
            part = [*part, i]
        yield part

    def _table(self, title: str | None, part: Sequence[int], width: int) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
        for i in part:
            heading, numeric = self.columns[i]
            texts = [Text.from_markup(row[i]).plain for row in self.rows]
            words = [word for text in texts for word in ([text] if numeric else text.split())]
            longest = max((len(word) for word in words), default=0)
            room = width // (2 if i == 0 and width >= _ROOMY else 5)  # the first column names the rows
            least = max([longest if numeric else min(longest, room), *map(len, heading.split())])
            drawn.add_column(heading, justify="right" if numeric else "left", min_width=least, overflow="fold")
        for row in self.rows:
            drawn.add_row(*(row[i] for i in part))
        return drawn


def format_value(value: Any, digits: int = 2) -> str:
    """An entry of a table: floats with a fixed number of decimals, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return escape(str(value))


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result on stdout as JSON; numbers that JSON does not know (NaN, inf) become null."""
    import json

    sys.stdout.write(json.dumps(jsonable(result), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """Plain JSON values of nested mappings, sequences, paths and numpy or torch numbers."""
    import math

    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool | None):
        return value
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)
