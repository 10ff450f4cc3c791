"""Results that lie beside a run's metrics, whichever command wrote them. All are optional; found by name and form.

``spectrum*.npz``
    every 1-D array is one spectrum, named by its key: natural logarithms of the singular values of the covariance,
    descending. Lists under a key ``spectrum`` (or ``*_spectrum``) of any JSON file are read alike.
``transport*.npz``
    ``source`` (N, D) and ``target`` (M, D) points; ``forward`` (N, D) images of the source; optionally ``inverse``
    (M, D) images of the target, and ``grid``, ``grid_forward`` (G, H, 2): a regular grid and its image.
``palette*.npz``
    ``source`` (N, 3) and ``target`` (M, 3) colours, bytes or fractions; optionally ``forward`` (N, 3) and
    ``inverse`` (M, 3).
``*.json``
    a list of objects that each have a cost (``operations``, ``mflops``, ``seconds``, ...) and numbers measured at that
    cost (themselves, or under ``metrics``) is accuracy against cost: ``retrieval.json``, ``cascade.json``. The texts
    ``name`` (or ``method``, ``strategy``) tell its series apart and ``text`` (or ``label``) stands beside a point.

Arrays may also be given as single ``.npy`` files.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.errors import UserError
from wasskit.system.arrays import read_archive, read_array
from wasskit.system.documents import read_json
from wasskit.training.series import is_finite_number

if typing.TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_COSTS = ("operations", "mflops", "flops", "macs", "cost", "seconds", "milliseconds", "mean_dim")
_NAMES = ("name", "method", "strategy", "series")
_LABELS = ("text", "label")
_KNOWN = {"config.toml", "environment.json", "metrics.csv", "summary.json"}


@dataclass(frozen=True)
class Point:
    """One setting of a trade-off."""

    cost: float
    accuracy: float
    label: str


@dataclass(frozen=True)
class CostTable:
    """A list of settings with what each costs and achieves."""

    path: Path
    cost: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def accuracies(self) -> list[str]:
        """The numbers measured, besides costs and integers that are settings."""
        measured = {
            key: None
            for row in self.rows
            for key, value in row.items()
            if isinstance(value, float) and not any(word in key for word in _COSTS)
        }
        return list(measured)

    @property
    def preferred(self) -> str:
        """The number that is drawn where none is named."""
        best = [name for name in ("map10", "top1", "accuracy") if name in self.accuracies]
        return (best or self.accuracies)[0]

    def series(self, accuracy: str) -> dict[str, list[Point]]:
        """The points of each series, by rising cost."""
        found: dict[str, list[Point]] = {}
        for row in self.rows:
            if is_finite_number(row.get(self.cost)) and is_finite_number(row.get(accuracy)) and row[self.cost] > 0:
                name, label = (next((str(row[k]) for k in keys if k in row), "") for keys in (_NAMES, _LABELS))
                found.setdefault(name, []).append(Point(row[self.cost], row[accuracy], label.split(" > ")[0]))
        return {name: sorted(points, key=lambda p: p.cost) for name, points in found.items()}


def result_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a run directory that match, at any depth.

    Checkpoints and event files are left out and, where ``folder`` is a run, those of other runs within it.
    """
    is_run = (folder / "config.toml").is_file()
    found = [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
        and not (is_run and any((p / "config.toml").is_file() for p in path.parents if folder in p.parents))
        and path.name not in _KNOWN
        and not {"checkpoints", "tensorboard"} & set(path.relative_to(folder).parts)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: (len(path.parts), path))


# --- JSON -------------------------------------------------------------------------------------------------------------


def cost_tables(path: Path, cost: str | None = None) -> list[CostTable]:
    """The tables of accuracy against cost in a JSON file."""
    found = []
    for _, rows in tables_in(read_json(path)):
        keys = list(dict.fromkeys(key for row in rows for key in row))
        costs = (
            [cost] if cost is not None else [k for word in _COSTS for k in keys if k == word or k.endswith("_" + word)]
        )
        for key in costs[:1]:
            if sum(is_finite_number(row.get(key)) for row in rows) > 1:
                table = CostTable(path, key, rows)
                found += [table] if table.accuracies else []
    return found


def tables_in(document: Any, name: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every list of objects in a document, each object flattened by one level, with the keys that lead to it."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from tables_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(document, list) and len(document) > 1 and all(isinstance(entry, Mapping) for entry in document):
        yield name, [_flat(entry) for entry in document]


def spectra_in(document: Any, *keys: str) -> Iterator[tuple[str, list[float]]]:
    """Every list of numbers under a key that says it is a spectrum, named by the other keys that lead to it."""
    if not isinstance(document, Mapping):
        return
    for key, value in document.items():
        path = (*keys, str(key))
        if isinstance(value, Mapping):
            yield from spectra_in(value, *path)
        elif any("spectrum" in k for k in path) and _is_list_of_numbers(value):
            name = " ".join(k for k in path if k != "spectrum")
            yield name, [-math.inf if entry is None else float(entry) for entry in value]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        flat |= {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {str(key): value}
    return flat


def _is_list_of_numbers(value: Any) -> bool:
    """Whether it is a list of numbers; JSON has null for those that are not finite."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(entry is None or (isinstance(entry, int | float) and not isinstance(entry, bool)) for entry in value)
    )


# --- Arrays -----------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, Array]:
    """The numeric arrays of an ``.npz`` or ``.npy`` file (under its stem), without pickles.

    Raises:
        UserError: the file is damaged, holds Python objects, or no numbers.
    """
    arrays = {path.stem: read_array(path)} if path.suffix.lower() == ".npy" else read_archive(path)
    if not arrays:
        raise UserError(f"{path} holds no numbers.")
    return arrays


def read_rows(path: Path) -> Array:
    """A float64 array (N, D) from a file of embeddings.

    Raises:
        UserError: no such array, fewer than two rows, or values that are not finite.
    """
    from wasskit.data.embeddings import open_embeddings

    rows: Array = open_embeddings(path, least=2).whole().double().numpy()
    return rows
