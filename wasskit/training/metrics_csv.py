"""The record of a run's metrics, ``metrics.csv``: ``epoch,step,split,metric,value``, append-only. Free of torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wasskit.system.documents import LARGEST_TEXT
from wasskit.system.files import replace_text, writing
from wasskit.system.readers import Damage, reader
from wasskit.text import csv_text

_HEADER = ("epoch", "step", "split", "metric", "value")


class MetricRow(NamedTuple):
    """One row of ``metrics.csv``."""

    epoch: int
    step: int
    split: str
    metric: str
    value: float


class MetricsFile:
    """The ``metrics.csv`` at ``path``; ``UserError`` where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: int | None = None

    def create(self) -> None:
        replace_text(self.path, csv_text([_HEADER]))

    def append(self, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add metrics, and hand them to the system at once."""
        self._rows = self.rows + len(values)
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(csv_text((epoch, step, split, name, float(value)) for name, value in values.items()))

    @property
    def rows(self) -> int:
        """How many metrics are recorded."""
        if self._rows is None:
            self._rows = len(read_metrics(self.path))
        return self._rows

    def sync(self) -> None:
        """Bring the file to the disk."""
        if self.path.is_file():
            with writing(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def keep(self, rows: int, step: int) -> None:
        """Drop all but the first ``rows`` metrics, and of these the ones after ``step``."""
        kept = [row for row in read_metrics(self.path)[:rows] if row.step <= step]
        replace_text(self.path, csv_text([_HEADER, *kept]))
        self._rows = len(kept)


def read_metrics(path: Path) -> list[MetricRow]:
    """The rows of a ``metrics.csv``. A line that a kill cut short is left out; a missing file has no rows."""
    return _parse_metrics(path)[0] if path.is_file() else []


def salvage_metrics(path: Path) -> tuple[list[MetricRow], int]:
    """The rows that can be read, and how many lines cannot. Raises ``UnreadableFile`` where there is no such file."""
    return _parse_metrics(path, damaged=True)


@reader("record of metrics", suffixes=(".csv",), advice="repair that line or remove the file", largest=LARGEST_TEXT)
def _parse_metrics(path: Path, *, damaged: bool = False) -> tuple[list[MetricRow], int]:
    """The rows, and the number of lines that hold none; unless ``damaged``, five fields that are no row are refused.

    A last line without its end is one still being written.
    """
    text = path.read_text(encoding="utf-8", errors="replace" if damaged else "strict")
    rows, unreadable = [], 0
    for number, line in enumerate(text[: text.rfind("\n") + 1].replace("\0", "").split("\n"), start=1):
        fields: Sequence[str] = ()
        try:
            # Line by line: a quotation mark too many spoils its own line only.
            fields = next(csv.reader([line])) if '"' in line else line.split(",")
            if fields[0] != "epoch":
                rows.append(_row(fields))
        except (ValueError, csv.Error) as error:
            if len(fields) == len(_HEADER) and not damaged:
                raise Damage(f"it is damaged in line {number}") from error
            unreadable += bool(line.strip())
    return rows, unreadable


def _row(fields: Sequence[str]) -> MetricRow:
    """A row from its five fields. Raises ``ValueError`` for invalid ones."""
    epoch, step, split, metric, value = fields
    row = MetricRow(int(epoch), int(step), split, metric, float(value))
    if max(abs(row.epoch), abs(row.step)) >= 1 << 63:
        raise ValueError("a number of more than 64 bits")
    return row
