"""Names of rows, and files of pairs that call them by these: what is relevant to a query, what it does not meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wasskit.data.embeddings import Embeddings, read_values
from wasskit.errors import UserError
from wasskit.system.documents import LARGEST_TEXT, read_csv_rows
from wasskit.system.readers import Damage, reader
from wasskit.text import short_text


@dataclass(frozen=True)
class Named:
    """The rows of a set of vectors by their names.

    Args:
        where: what names them, as sentences call it.
        names: of the rows in their order, all different.
    """

    where: str
    names: Sequence[str]

    @classmethod
    def by_number(cls, of: Embeddings) -> Named:
        """Rows named by their numbers from 0."""
        return cls(f"the rows 0 to {len(of) - 1} of {of.where}", [str(row) for row in range(len(of))])


def read_named(path: Path | None, of: Embeddings) -> Named:
    """Names of the rows of ``of`` from a column of a file, as they are written; without one, the rows' numbers.

    Raises:
        UserError: the file cannot be read, has another length, or names two rows alike.
    """
    if path is None:
        return Named.by_number(of)
    names: list[str] = read_values(path, of, what="ids").astype(str).tolist()
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        again = next(row for row, name in enumerate(names) if first.setdefault(name, row) != row)
        raise UserError(
            f"{path} names {short_text(names[again])!r} twice, in rows {first[names[again]]} and {again}; "
            f"{len(names) - len(set(names)):,} of {len(names):,} ids are not new: each row needs its own."
        )
    return Named(f"the ids of {path}", names)


@dataclass(frozen=True)
class NamedPairs:
    """Pairs as a file has them: names of queries and of documents, relevances, and the line of each."""

    path: Path
    queries: list[str]
    documents: list[str]
    relevance: list[float]
    lines: list[int]


@reader("CSV file of pairs", suffixes=(".csv",), advice="write it as query,document,relevance", largest=LARGEST_TEXT)
def read_pairs(path: Path) -> NamedPairs:
    """Pairs from the columns query and document of a CSV file with a heading, and relevance (1 where none is given)."""
    heading, *rows = read_csv_rows(path) or [(0, [])]
    columns = [name.strip() for name in heading[1]]
    missing = [name for name in ("query", "document") if name not in columns]
    if missing:
        raise Damage(f"it has no column {missing[0]}")
    graded = columns.index("relevance") if "relevance" in columns else None
    query, document = columns.index("query"), columns.index("document")
    found = NamedPairs(path, [], [], [], [])
    for line, row in rows:
        if len(row) != len(columns):
            raise Damage(f"line {line} has {len(row):,} entries, its heading {len(columns):,}")
        found.queries.append(row[query].strip())
        found.documents.append(row[document].strip())
        found.relevance.append(1.0 if graded is None or not row[graded].strip() else _relevance(row[graded], line))
        found.lines.append(line)
    if not found.lines:
        raise Damage("it has no pair")
    return found


def _relevance(text: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Damage(f"line {line} has the relevance {short_text(text, 20)!r}, which is no number") from None
    if not abs(value) <= 1000:
        raise Damage(f"line {line} has the relevance {value}; expected one from -1000 to 1000")
    return value


def rows_of_pairs(pairs: NamedPairs, queries: Named, documents: Named) -> tuple[Tensor, Tensor, Tensor]:
    """The rows (P,) int64 of the queries and of the documents, and the relevances (P,) float64.

    Raises:
        UserError: a name is that of no row, or a pair is there twice: which, in which line, and how many are.
    """
    places = [f"line {line}" for line in pairs.lines]
    sources = rows_of_names(pairs.path, pairs.queries, queries, what="queries", places=places)
    items = rows_of_names(pairs.path, pairs.documents, documents, what="documents", places=places)
    keys = sources * len(documents.names) + items
    order = keys.argsort(stable=True)
    again = order[1:][keys[order].diff() == 0]
    if len(again):
        line = pairs.lines[int(again.min())]
        raise UserError(f"{pairs.path} has {len(again):,} pairs twice, the first again in line {line}: keep one each.")
    return sources, items, torch.tensor(pairs.relevance, dtype=torch.float64)


def rows_of_names(
    path: Path, names: Sequence[str], known: Named, *, what: str = "documents", places: Sequence[str] = ()
) -> Tensor:
    """The rows (P,) int64 of names that a file lists, in ``places`` of it. Raises ``UserError`` for a foreign name."""
    rows = {name: row for row, name in enumerate(known.names)}
    foreign = [number for number, name in enumerate(names) if name not in rows]
    if foreign:
        first = foreign[0]
        place = places[first] if places else f"entry {first + 1}"
        raise UserError(
            f"{path} names {len({names[number] for number in foreign}):,} {what} that are none of {known.where}, the "
            f"first is {short_text(names[first])!r} in {place}."
        )
    return torch.tensor([rows[name] for name in names], dtype=torch.int64)
