"""The record of a run's metrics, ``metrics.csv``: ``epoch,step,split,metric,value``, append-only. Free of torch."""

from __future__ import annotations

import csv
import io
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
    return _parse_metrics(path) if path.is_file() else []


@reader("record of metrics", suffixes=(".csv",), advice="repair that line or remove the file", largest=LARGEST_TEXT)
def _parse_metrics(path: Path) -> list[MetricRow]:
    text = path.read_text(encoding="utf-8")
    rows = []
    lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    for fields in lines:
        if len(fields) == len(_HEADER) and fields[0] != "epoch":
            try:
                rows.append(metric_row(fields))
            except ValueError as error:
                raise Damage(f"it is damaged in line {lines.line_num}") from error
    return rows


def metric_row(fields: Sequence[str]) -> MetricRow:
    """A row of ``metrics.csv`` from its five fields. Raises ``ValueError`` for invalid ones."""
    epoch, step, split, metric, value = fields
    row = MetricRow(int(epoch), int(step), split, metric, float(value))
    if max(abs(row.epoch), abs(row.step)) >= 1 << 63:
        raise ValueError("a number of more than 64 bits")
    return row
