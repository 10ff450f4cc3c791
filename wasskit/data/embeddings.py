"""Embeddings and what is known of them, from files: the one reader of vectors.

A file is named by its path: ``.npy``, ``.npz`` (``FILE.npz:KEY``), ``.safetensors`` (``FILE.safetensors:KEY``),
``.parquet`` (a column of lists, ``FILE.parquet:COLUMN``; by the extra ``parquet``) or ``.csv`` (one number per column).
What follows the colon may be left out where there is but one matrix. ``.npy``, ``.safetensors`` and ``.parquet`` files
are read as they are used; the first and the last may be larger than the memory. Columns beside vectors (labels, ids,
groups) come from the same formats: ``labels.npy``, ``FILE.csv:COLUMN``, ``FILE.parquet:COLUMN``, or a text file of one
value per line.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.data.formats.csv_vectors import BESIDE, read_csv_vectors
from wasskit.errors import UserError
from wasskit.system.arrays import NUMBERS, map_array, read_archive
from wasskit.system.arrays import VECTORS as SUFFIXES
from wasskit.system.documents import read_csv_rows, read_text
from wasskit.text import is_number, short_text

if TYPE_CHECKING:
    from wasskit.data.formats.parquet import ParquetVectors

__all__ = [
    "SUFFIXES", "Embeddings", "Labelled", "class_numbers", "is_embeddings", "is_part", "open_embeddings", "read_column",
    "read_labelled", "read_tensor", "read_values",
]  # fmt: skip

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COLUMNS = f"{NUMBERS}U"
_CHUNK, _NUMBERS = 65_536, 1 << 24
"""Most rows, and about the most numbers, that are read at a time."""


@dataclass(frozen=True)
class MappedVectors:
    """The array of a ``.npy`` file, read as it is used: slices are floating tensors of their own."""

    path: Path
    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> torch.dtype:
        return _floating(np.empty(0, self.array.dtype)).dtype

    def split(self, rows: int) -> Iterator[Tensor]:
        """The rows in order, up to ``rows`` of them at a time; those that were given leave the memory."""
        mapped = getattr(self.array, "_mmap", None)
        for start in range(0, len(self.array), rows):
            yield _floating(self.array[start : start + rows].copy())
            if mapped is not None and hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return _floating(self.array[indices.numpy()])


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a file, read as they are used.

    Args:
        where: the file, as sentences name it.
        stored: the vectors (N, D) as they are stored.
    """

    where: str
    stored: Tensor | MappedVectors | ParquetVectors

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.stored.shape
        return int(rows), int(width)

    @property
    def dtype(self) -> torch.dtype:
        """float16, bfloat16, float32 or float64; whole numbers and truth values count as float32 or float64."""
        return self.stored.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self, rows: int | None = None, *, wide: bool = False) -> Iterator[Tensor]:
        """The vectors in order, (up to ``rows``, D) float32 at a time, with ``wide`` float64 as it is; None: 64 MiB.

        Raises:
            UserError: a row is not finite in that type: which, and how many of the file are.
        """
        for part in self.stored.split(rows or self._at_a_time):
            found: Tensor = part if wide and part.dtype == torch.float64 else part.to(torch.float32)
            self._refuse(found)
            yield found

    def rows(self, indices: Tensor | Sequence[int] | NDArray[np.integer[Any]]) -> Tensor:
        """The vectors of some rows, in the order given, (len(indices), D) float32; raises as :meth:`chunks`."""
        places = torch.as_tensor(indices, dtype=torch.int64)
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(self):
            raise IndexError(f"rows {int(places.min())} to {int(places.max())} of {len(self)}")
        found = self.stored[places].to(torch.float32)
        self._refuse(found)
        return found

    def whole(self, *, check: bool = True) -> Tensor:
        """All vectors (N, D) in the type that they are stored in. Of ``.npy`` and ``.safetensors`` files they stay
        mapped into memory.

        Args:
            check: raise ``UserError`` where a row is not finite; otherwise that is left to the caller.
        """
        if check:
            self._check(lambda part: part)
        return _loaded(self.stored)

    @property
    def _at_a_time(self) -> int:
        return max(1, min(_CHUNK, _NUMBERS // self.shape[1]))

    def _refuse(self, found: Tensor) -> None:
        if not bool(torch.isfinite(found).all()):
            self._check(torch.Tensor.float)

    def _check(self, taken: Any) -> None:
        """Raises ``UserError`` where rows, ``taken`` as they will be used, are not finite."""
        bad, first, start = 0, 0, 0
        for part in self.stored.split(self._at_a_time):
            wrong = ~torch.isfinite(taken(part)).all(1)
            if bad == 0 and bool(wrong.any()):
                first = start + int(wrong.nonzero()[0])
            bad += int(wrong.sum())
            start += len(part)
        if bad:
            raise UserError(
                f"{self.where} has {bad:,} rows with values that are not finite, the first is row {first}: remove them."
            )


def open_embeddings(path: Path, *, least: int = 1) -> Embeddings:
    """The vectors of a file, unread where its format allows.

    Args:
        path: of a format of the module's docstring.
        least: rows that there must be.

    Raises:
        UserError: the file is missing, damaged or of another kind, holds no matrix of numbers, or several, or
            fewer rows.
    """
    stored = _opened(*_parted(path))
    if len(stored.shape) != 2 or 0 in stored.shape:
        raise UserError(f"{path} must be a matrix (N, m) with one row per sample, not of shape {tuple(stored.shape)}.")
    if stored.shape[0] < least:
        raise UserError(f"{path} has {_several(stored.shape[0], 'rows')}: expected at least {least}.")
    return Embeddings(str(path), stored)


def read_tensor(path: Path) -> Tensor:
    """The numbers of any shape in a file, floating, as they are stored. Raises as :func:`open_embeddings`."""
    return _loaded(_opened(*_parted(path)))


# --- Labels and other columns -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Vectors (N, D) as they are stored in the file ``where``, labels (N,) int64, numbers of ``classes``; -1: none."""

    vectors: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    where: str = "vectors"


def read_labelled(*pairs: tuple[Path, Path | None]) -> list[Labelled]:
    """Files of vectors with their labels, if any; the classes are numbered alike in all of them.

    Raises:
        UserError: one cannot be read, they do not fit together, or the vectors differ in width.
    """
    opened = [open_embeddings(path) for path, _ in pairs]
    for other in opened[1:]:
        if other.shape[1] != opened[0].shape[1]:
            raise UserError(
                f"{other.where} has vectors of {other.shape[1]} numbers, {opened[0].where} of {opened[0].shape[1]}."
            )
    columns = [None if path is None else read_column(path, of) for (_, path), of in zip(pairs, opened, strict=True)]
    numbers, classes = class_numbers(*(column for column in columns if column is not None))
    labels = [
        numbers.pop(0) if given is not None else torch.full((len(of),), -1)
        for given, of in zip(columns, opened, strict=True)
    ]
    return [Labelled(of.whole(), its, classes, of.where) for of, its in zip(opened, labels, strict=True)]


def read_column(path: Path, of: Embeddings | None = None, *, what: str = "labels") -> NDArray[Any]:
    """A value for each row: whole numbers (N,) int64, or texts (N,), as ``007`` and what int64 cannot hold.

    Args:
        of: the vectors that they belong to.
        what: they are, as sentences name them.

    Raises:
        UserError: the file cannot be read, holds no such column, or as many values as ``of`` has rows.
    """
    values = read_values(path, of, what=what)
    spelled = (re.fullmatch("0|-?[1-9][0-9]{0,17}", value) for value in values)
    whole = all(spelled) if values.dtype.kind == "U" else int(values.max(initial=0)) < 1 << 63
    return values.astype(np.int64 if whole else str)


def read_values(path: Path, of: Embeddings | None = None, *, what: str = "labels") -> NDArray[Any]:
    """The same as they are stored: whole numbers of any type, or texts, also where these are all numbers."""
    file, key = _parted(path)
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz", ".safetensors"):
        values = _whole_or_text(_column_array(file, key), path)
    elif suffix == ".csv":
        values = np.array(_column(file, key, what))
    elif suffix == ".parquet":
        from wasskit.data.formats.parquet import read_parquet_column

        if key is None and what != "labels":
            raise UserError(f"{path} has no column for {what} alone: name one, {path}:COLUMN.")
        values = read_parquet_column(file, key or "label")
    elif suffix == ".txt":
        values = np.array(read_text(file).splitlines())
    else:
        raise UserError(f"{path}: {what} are read from .npy, .npz, .safetensors, .csv, .parquet or .txt files.")
    if of is not None and len(values) != len(of):
        raise UserError(
            f"{path} has {_several(len(values), what)} for the {_several(len(of), 'vectors')} of {of.where}."
        )
    return values


def _several(number: int, things: str) -> str:
    return f"{number:,} {things if number != 1 else things.removesuffix('s')}"


def _column_array(file: Path, key: str | None) -> NDArray[Any]:
    """The one array (N,) of a file, or that of a name: numbers or texts."""
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return map_array(file, kinds=_COLUMNS)
    if suffix == ".npz":
        found: NDArray[Any] = _one(file, key, _archive(file, key, _COLUMNS), 1)
        return found
    from wasskit.models.weights import read_safetensors

    tensor: Tensor = _one(file, key, read_safetensors(file)[0], 1)
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _whole_or_text(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """A column as whole numbers or texts: classes often come as truth values, or as 3.0 from a table with gaps."""
    whole = values.dtype.kind in "iub" or (
        values.dtype.kind == "f" and bool((np.isfinite(values) & (np.abs(values) < 1 << 53) & (values % 1 == 0)).all())
    )
    if values.ndim != 1 or not (whole or values.dtype.kind == "U"):
        raise UserError(
            f"{path} has {values.dtype} of shape {values.shape}: expected one whole number or text per vector."
        )
    return values.astype(np.int64) if values.dtype.kind in "bf" else values


def class_numbers(*columns: NDArray[Any]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Columns as numbers (N,) int64 of their distinct values, ascending, and the names of these."""
    if not columns:
        return [], ()
    texts = any(column.dtype.kind == "U" for column in columns)
    values = np.concatenate([column.astype(str) if texts else column for column in columns])
    classes, numbers = np.unique(values, return_inverse=True)
    parts = torch.from_numpy(numbers.astype(np.int64).reshape(-1)).split([len(column) for column in columns])
    return list(parts), tuple(map(str, classes))


def _column(path: Path, key: str | None, what: str) -> list[str]:
    """The entries of a column of a CSV file: that of its name, or the only one."""
    rows = [row for _, row in read_csv_rows(path)]
    heading = [name.strip() for name in rows[0]] if rows else []
    if key is None and len(heading) > 1:
        key = "label" if what == "labels" and "label" in heading else None
        if key is None:
            raise UserError(f"{path} has the columns {short_text(', '.join(heading))}: name one, {path}:COLUMN.")
    if key is not None and key not in heading:
        raise UserError(f"{path} has no column {key!r}; it has {short_text(', '.join(heading)) or 'none'}.")
    place = heading.index(key) if key is not None else 0
    short = next((number for number, row in enumerate(rows) if len(row) <= place), None)
    if short is not None:
        raise UserError(f"{path}: row {short} has no column {key!r}.")
    first, second = (entries[place].strip() for entries in (rows * 2)[:2]) if rows else ("", "")
    named = key is not None or first in BESIDE or (is_number(second) and not is_number(first))
    return [row[place].strip() for row in rows[1 if named else 0 :]]


# --- Formats ----------------------------------------------------------------------------------------------------------


def is_embeddings(path: Path) -> bool:
    """Whether a path names a file of embeddings where it could be a model too: ``.safetensors`` without the name of a
    tensor is one."""
    file, key = _parted(path)
    return file.suffix.lower() in SUFFIXES and (file.suffix != ".safetensors" or key is not None) and not file.is_dir()


def is_part(path: Path) -> bool:
    """Whether a path names a part of a file that is there, as in ``FILE.npz:KEY``."""
    file, key = _parted(path)
    return key is not None and file.exists()


def _parted(path: Path) -> tuple[Path, str | None]:
    """A file and the name of a part of it, after a colon; None without."""
    name, colon, key = path.name.rpartition(":")
    if colon and key and Path(name).suffix.lower() in SUFFIXES and not path.exists():
        return path.with_name(name), key
    return path, None


def _opened(file: Path, key: str | None) -> Tensor | MappedVectors | ParquetVectors:
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        advice = " Write a tensor to one by `numpy.save`." if suffix in (".pt", ".pth") else ""
        raise UserError(f"{file}: embeddings are read from {', '.join(SUFFIXES)} files.{advice}")
    if not file.exists():
        raise UserError(f"There is no file {file}; name one that is there.")
    if suffix == ".parquet":
        from wasskit.data.formats.parquet import open_parquet

        return open_parquet(file, key)
    if suffix == ".safetensors":
        from wasskit.models.weights import read_safetensors

        tensor: Tensor = _one(file, key, read_safetensors(file)[0], 2)
        if tensor.is_complex():
            raise UserError(f"{file} holds complex numbers: expected real ones.")
        return tensor if tensor.dtype in FLOATING else tensor.to(torch.float64)
    if key is not None and suffix != ".npz":
        raise UserError(f"{file} holds one matrix: name it without {':' + key!r}.")
    if suffix == ".csv":
        return torch.from_numpy(read_csv_vectors(file))
    if suffix == ".npy":
        return MappedVectors(file, map_array(file))
    return _floating(_one(file, key, _archive(file, key), 2))


def _loaded(stored: Tensor | MappedVectors | ParquetVectors) -> Tensor:
    if isinstance(stored, MappedVectors):
        return _floating(map_array(stored.path, own=True))
    return stored if isinstance(stored, Tensor) else torch.cat([*stored.split(_CHUNK)])


def _archive(file: Path, key: str | None, kinds: str = NUMBERS) -> dict[str, NDArray[Any]]:
    return read_archive(file, None if key is None else [key], kinds=kinds)


def _one(file: Path, key: str | None, found: dict[str, Any], dims: int) -> Any:
    """The array of a name, or the only one of so many dimensions."""
    if key is not None:
        if key not in found:
            raise UserError(f"{file} holds no {key!r}; it holds {short_text(', '.join(found)) or 'no numbers'}.")
        return found[key]
    names = [name for name, array in found.items() if array.ndim == dims]
    if len(names) != 1:
        shape = "(points, coordinates)" if dims == 2 else "(points,)"
        several = f" ({short_text(', '.join(names))}): name one, {file}:NAME" if names else ""
        raise UserError(f"{file} must hold one array of shape {shape}; it holds {len(names)}{several}.")
    return found[names[0]]


def _floating(array: NDArray[Any]) -> Tensor:
    """The array as a tensor, in its own type where that is a floating one, else in one that holds its values."""
    array = np.asarray(array)
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    return torch.from_numpy(array)
