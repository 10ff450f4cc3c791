"""Vectors in a CSV file, one per line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wasskit.system.documents import LARGEST_TEXT
from wasskit.system.readers import Damage, reader
from wasskit.text import is_number

BESIDE = ("", "row", "id", "label", "group", "path")
"""Columns of a CSV file of vectors that are no part of them."""


@reader("CSV file of vectors", suffixes=(".csv",), advice="write one vector per line", largest=LARGEST_TEXT)
def read_csv_vectors(path: Path) -> NDArray[np.float64]:
    """The vectors (N, D) of a CSV file: its columns of numbers, but for those that a heading names row, id, label,
    group or path."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = csv.reader(stream)
        first = next(lines, [])
        second = next(lines, first)
    named = [not is_number(a) and is_number(b) for a, b in zip(first, second, strict=False)]
    headed = any(named) or not any(map(is_number, first)) or any(x.strip() in BESIDE[1:] for x in first)
    columns = [
        place
        for place, entry in enumerate(second if headed else first)
        if is_number(entry) and not (headed and first[place : place + 1] and first[place].strip() in BESIDE)
    ]
    if not columns:
        raise Damage("it has no column of numbers")
    try:
        found: NDArray[np.float64] = np.loadtxt(
            path, np.float64, delimiter=",", usecols=columns, skiprows=int(headed), ndmin=2, comments=None,
            quotechar='"', encoding="utf-8-sig",
        )  # fmt: skip
    except ValueError as error:
        place = re.search(r"at row (\d+)(, column)?", str(error))
        # Counted from 0 where an entry is no number, from 1 where a line is short.
        row = "" if place is None else f": row {int(place[1]) - (place[2] is None)} is not"
        raise Damage(f"its rows are not all of {len(columns):,} numbers{row}") from error
    return found
