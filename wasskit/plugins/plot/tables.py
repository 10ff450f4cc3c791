"""Tables of runs as LaTeX (booktabs), Markdown and CSV: settings that differ, metrics, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wasskit.evaluation.metrics import Order
from wasskit.pictures.bars import Value, decimals
from wasskit.plugins.plot.groups import Group, show_setting
from wasskit.plugins.plot.metrics import heading, order_of
from wasskit.text import csv_text, latex_text, markdown_text, plain_text


@dataclass(frozen=True)
class Cell:
    """One entry: what is shown, and what it is worth."""

    text: str
    value: float | None = None
    deviation: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Column:
    heading: str
    order: Order | None = None
    numeric: bool = False
    key: str | None = None

    @property
    def name(self) -> str:
        """What ``--json`` and CSV call it: metrics as they are recorded."""
        return self.key or self.heading


@dataclass(frozen=True)
class RunsTable:
    """A table before it is written down in one of the formats."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sources: Sequence[str] = ()
    notes: Sequence[str] = ()
    title: str | None = None

    def __rich__(self) -> Any:
        return _for_terminal(self)


def make_table(
    groups: Sequence[Group],
    values: Mapping[str, Sequence[Mapping[str, Value]]],
    keys: Sequence[str],
    *,
    against_paper: bool = False,
    digits: int | None = None,
) -> RunsTable:
    """One row per group.

    Args:
        values: for each choice of an evaluation (``final``, ``best``), the metrics of each group.
        keys: the metrics, ``split/metric``.
        against_paper: beside each final metric the published one and the difference, where a recipe carries it.
        digits: decimals; by default two, more for small numbers.
    """
    settings = list(dict.fromkeys(key for group in groups for key in group.settings))
    seeds = any(len(group.runs) > 1 for group in groups)
    states = any(not run.finished for group in groups for run in group.runs)
    # Where the settings are columns they need not be repeated in the label, unless the user chose it.
    spelled = all(_label_lists_settings(group) for group in groups) and len(settings) > 0
    columns = [] if spelled else [Column("run")]
    body: list[list[Cell]] = [[] if spelled else [Cell(group.label)] for group in groups]
    for key in settings:
        columns.append(Column(key.replace("_", "-")))
        for row, group in zip(body, groups, strict=True):
            row.append(Cell(show_setting(group.settings[key]) if key in group.settings else "-"))
    if seeds:
        columns.append(Column("seeds", numeric=True))
        for row, group in zip(body, groups, strict=True):
            row.append(Cell(str(len(group.runs)), float(len(group.runs))))
    if states:
        columns.append(Column("state"))
        for row, group in zip(body, groups, strict=True):
            row.append(Cell(_state(group)))
    one_split = len({key.rpartition("/")[0] for key in keys}) == 1
    for key in keys:
        places = digits
        if against_paper and digits is None and (published := _as_published(groups, key)) is not None:
            means = [own[key].mean for entries in values.values() for own in entries if key in own]
            places = max(published, decimals(means))
        for which, entries in values.items():
            name = heading(key, split=not one_split) + (f", {which}" if len(values) > 1 else "")
            full = f"{key} {which}" if len(values) > 1 else key
            _add(
                columns,
                body,
                Column(name, order_of(key), numeric=True, key=full),
                [own.get(key) for own in entries],
                places,
            )
            if against_paper and which == next(iter(values)):
                _add_paper(columns, body, key, groups, [own.get(key) for own in entries], places)
    sources = [str(group.paper["source"]) for group in groups if against_paper and group.paper.get("source")]
    return RunsTable(columns, body, list(dict.fromkeys(sources)), _partial(groups, values, keys))


def _partial(
    groups: Sequence[Group], values: Mapping[str, Sequence[Mapping[str, Value]]], keys: Sequence[str]
) -> list[str]:
    """Where a mean is over fewer seeds than the group has."""
    found: dict[str, dict[str, None]] = {}
    for entries in values.values():
        for group, own in zip(groups, entries, strict=True):
            for key in keys:
                if key in own and own[key].count < len(group.runs):
                    which = f"{own[key].count} of the {len(group.runs)} runs of {group.label}"
                    found.setdefault(which, {})[key] = None
    return [f"Only {which} have {', '.join(missing)}." for which, missing in found.items()]


def _label_lists_settings(group: Group) -> bool:
    return bool(group.settings) and group.label == ", ".join(
        value if key == "command" else f"{key.replace('_', '-')}={show_setting(value)}"
        for key, value in group.settings.items()
    )


def _state(group: Group) -> str:
    unfinished = sum(not run.finished for run in group.runs)
    if not unfinished:
        return "finished"
    return "unfinished" if unfinished == len(group.runs) else f"{unfinished} unfinished"


def _add(
    columns: list[Column], body: list[list[Cell]], column: Column, entries: Sequence[Value | None], digits: int | None
) -> None:
    """A metric's column; all entries that equal the best one in the decimals shown are bold."""
    order = column.order
    shown = decimals([entry.mean for entry in entries if entry is not None], digits)
    rounded = [round(entry.mean, shown) for entry in entries if entry is not None]
    best = (max if order == "max" else min)(rounded) if order is not None and len(rounded) > 1 else None
    columns.append(column)
    for row, entry in zip(body, entries, strict=True):
        if entry is None:
            row.append(Cell("-"))
            continue
        text = f"{entry.mean:.{shown}f}"
        row.append(Cell(text, entry.mean, entry.deviation, bold=best is not None and round(entry.mean, shown) == best))


def _as_published(groups: Sequence[Group], key: str) -> int | None:
    """The decimals of the published figures, at least two, so that the difference is told as finely as they are."""
    published = [group.paper.get("metrics", {}).get(key) for group in groups]
    places = [len(f"{float(value)!r}".partition(".")[2]) for value in published if value is not None]
    return max(2, *places) if places else None


def _add_paper(
    columns: list[Column], body: list[list[Cell]], key: str, groups: Sequence[Group], entries: Sequence[Value | None],
    digits: int | None,
) -> None:  # fmt: skip
    published = [group.paper.get("metrics", {}).get(key) for group in groups]
    if all(value is None for value in published):
        return
    known = [float(value) for value in published if value is not None]
    shown = decimals(known + [entry.mean for entry in entries if entry is not None], digits)
    columns += [Column(word, numeric=True, key=f"{key} {word}") for word in ("published", "difference")]
    for row, value, entry in zip(body, published, entries, strict=True):
        row.append(Cell(f"{value:.{shown}f}", float(value)) if value is not None else Cell("-"))
        if value is None or entry is None:
            row.append(Cell("-"))
        else:
            row.append(Cell(f"{entry.mean - value:+.{shown}f}", entry.mean - value))


# --- Formats ----------------------------------------------------------------------------------------------------------


def to_latex(table: RunsTable, *, caption: str | None = None) -> str:
    """A ``table`` environment with booktabs rules; needs ``\\usepackage{booktabs}``."""
    arrows = {"max": r" $\uparrow$", "min": r" $\downarrow$", None: ""}
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{latex_text(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(latex_text(column.heading) + arrows[column.order] for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_cell(cell, column) for cell, column in zip(row, table.columns, strict=True)) + r" \\"
          for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% Published: {plain_text(source)}" for source in table.sources),
        *(f"% {plain_text(note)}" for note in table.notes),
        r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell, column: Column) -> str:
    if cell.value is None or not column.numeric:
        return "--" if cell.text == "-" else latex_text(cell.text)
    number = cell.text.replace("-", r"$-$").replace("+", "$+$")
    text = rf"\textbf{{{number}}}" if cell.bold else number
    return text + (rf" $\pm$ {_deviation(cell)}" if cell.deviation is not None else "")


def to_markdown(table: RunsTable) -> str:
    """A pipe table as GitHub reads it."""
    cells = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    heads = [markdown_text(_with_arrow(column)) for column in table.columns]
    widths = [max(len(head), 3, *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]

    def line(entries: Sequence[str]) -> str:
        padded = (
            entry.rjust(width) if column.numeric else entry.ljust(width)
            for entry, width, column in zip(entries, widths, table.columns, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if column.numeric else "-" * width
        for width, column in zip(widths, table.columns, strict=True)
    ]
    notes = [f"\nPublished: {markdown_text(source)}" for source in table.sources]
    notes += [f"\n{markdown_text(note)}" for note in table.notes]
    return "\n".join([line(heads), line(rule), *map(line, cells), *notes]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text) + _spread(cell)
    return f"**{text}**" if cell.bold else text


def to_csv(table: RunsTable) -> str:
    """Numbers and the names of metrics in full, deviations in columns of their own."""
    spread = [any(row[i].deviation is not None for row in table.rows) for i in range(len(table.columns))]
    head: list[Any] = []
    for column, wide in zip(table.columns, spread, strict=True):
        head += [column.name, f"{column.name} deviation"] if wide else [column.name]
    rows = [head]
    for row in table.rows:
        line: list[Any] = []
        for cell, column, wide in zip(row, table.columns, spread, strict=True):
            value: Any = "" if cell.text == "-" else cell.text
            if column.numeric and cell.value is not None:
                value = int(cell.value) if cell.value.is_integer() and "." not in cell.text else cell.value
            line += [value, "" if cell.deviation is None else cell.deviation] if wide else [value]
        rows.append(line)
    return csv_text(rows)


def _for_terminal(table: RunsTable) -> Any:
    """A Rich table."""
    from wasskit.console import FittedTable, escape

    columns = [(escape(_with_arrow(column)), column.numeric) for column in table.columns]
    cells = [[_terminal_cell(cell) for cell in row] for row in table.rows]
    return FittedTable(None if table.title is None else escape(table.title), columns, cells)


def _terminal_cell(cell: Cell) -> str:
    from wasskit.console import escape

    text = escape(cell.text) + _spread(cell)
    return f"[bold]{text}[/bold]" if cell.bold else text


def _spread(cell: Cell) -> str:
    return f" ± {_deviation(cell)}" if cell.deviation is not None else ""


def records(table: RunsTable) -> list[dict[str, Any]]:
    """The rows as mappings for ``--json``."""
    found = []
    for row in table.rows:
        record: dict[str, Any] = {}
        for column, cell in zip(table.columns, row, strict=True):
            record[column.name] = cell.value if cell.value is not None else None if cell.text == "-" else cell.text
            if cell.deviation is not None:
                record[f"{column.name} deviation"] = cell.deviation
        found.append(record)
    return found


def _deviation(cell: Cell) -> str:
    decimals = len(cell.text.partition(".")[2])
    return f"{cell.deviation:.{decimals}f}"


def _with_arrow(column: Column) -> str:
    return column.heading + {"max": " ↑", "min": " ↓", None: ""}[column.order]
