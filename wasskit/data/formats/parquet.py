"""Vectors and columns of Parquet files, by pyarrow (the extra ``parquet``); row by row, never a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.errors import UserError
from wasskit.system.readers import Damage, reader, reading

KIND, ADVICE = "Parquet file", "write it anew"
_BATCH = 65_536


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files are read by pyarrow: install wasskit[parquet].") from error
    return pyarrow


@dataclass(frozen=True)
class ParquetVectors:
    """A column of lists of equal length: vectors, read as they are used.

    Args:
        dtype: in which they are given: the column's, where that is floating.
    """

    path: Path
    column: str
    shape: tuple[int, int]
    dtype: torch.dtype

    def split(self, rows: int) -> Iterator[Tensor]:
        """The vectors in order, up to ``rows`` of them at a time."""
        start = 0
        with reading(self.path, KIND, advice=ADVICE):
            for batch in _file(self.path).iter_batches(rows, columns=[self.column]):
                yield self._matrix(batch.column(0), start)
                start += len(batch)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Some rows; only the row groups that they lie in are read."""
        order = indices.argsort()
        wanted = indices[order].numpy()
        found = torch.empty(len(indices), self.shape[1], dtype=self.dtype)
        with reading(self.path, KIND, advice=ADVICE):
            file, start = _file(self.path), 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                a, b = np.searchsorted(wanted, (start, start + count))
                if a < b:
                    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[self.column]):
                        a, b = np.searchsorted(wanted, (start, start + len(batch)))
                        if a < b:
                            rows = self._matrix(batch.column(0), start)
                            found[order[a:b]] = rows[torch.from_numpy(wanted[a:b] - start)]
                        start += len(batch)
                else:
                    start += count
        return found

    def _matrix(self, lists: Any, start: int) -> Tensor:
        """Lists as a matrix (rows, D); ``start`` is the number of the first."""
        import pyarrow.compute

        width = self.shape[1]
        lengths = pyarrow.compute.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            has = "no vector" if lengths[row] < 0 else f"{lengths[row]:,} numbers"
            raise Damage(f"row {start + row} has {has}, the first {width:,}")
        values = lists.flatten()
        if values.null_count:
            row = int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // width
            raise Damage(f"row {start + row} lacks a number")
        array = np.array(values.to_numpy(zero_copy_only=False)).reshape(len(lists), width)
        return torch.from_numpy(array).to(self.dtype)


@reader(KIND, suffixes=(".parquet",), advice=ADVICE)
def open_parquet(path: Path, column: str | None = None) -> ParquetVectors:
    """The vectors in a column of lists of numbers: that of a name, or the only one."""
    file = _file(path)
    kinds = _pyarrow().types
    listed = {
        field.name: field.type.value_type
        for field in file.schema_arrow
        if kinds.is_list(field.type) or kinds.is_large_list(field.type) or kinds.is_fixed_size_list(field.type)
    }
    if column is None and len(listed) == 1:
        (column,) = listed
    if column is None or column not in listed:
        names = ", ".join(list(listed)[:8])
        if column is None and listed:
            raise UserError(f"{path} has several columns of lists ({names}): name one, {path}:COLUMN.")
        raise Damage(f"it has no column of lists{f' {column!r}' if column else ''}")
    kind = listed[column]
    dtypes = {"halffloat": torch.float16, "float": torch.float32}
    if not (kinds.is_floating(kind) or kinds.is_integer(kind)):
        raise Damage(f"its column {column!r} holds {kind}, not numbers")
    first = next(file.iter_batches(1, columns=[column]), None)
    width = 0 if first is None or not len(first) else len(first.column(0)[0].as_py() or ())
    return ParquetVectors(path, column, (file.metadata.num_rows, width), dtypes.get(str(kind), torch.float64))


@reader(KIND, suffixes=(".parquet",), advice=ADVICE)
def read_parquet_column(path: Path, column: str) -> NDArray[Any]:
    """Whole numbers (N,), of the type of the column, or texts (N,)."""
    file, kinds = _file(path), _pyarrow().types
    names = file.schema_arrow.names
    if column not in names:
        raise UserError(f"{path} has no column {column!r}; it has {', '.join(names[:8])}.")
    found = file.read(columns=[column]).column(0)
    if kinds.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    if found.null_count:
        raise Damage(f"its column {column!r} lacks {found.null_count:,} values")
    if kinds.is_integer(found.type):
        return np.asarray(found.to_numpy())
    if kinds.is_string(found.type) or kinds.is_large_string(found.type):
        return np.array(found.to_pylist(), dtype=str)
    raise Damage(f"its column {column!r} holds {found.type}, neither whole numbers nor text")


def _file(path: Path) -> Any:
    return _pyarrow().parquet.ParquetFile(path)
