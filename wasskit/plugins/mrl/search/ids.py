"""The ids of rows: whole numbers, or texts kept as UTF-8 behind one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wasskit.errors import UserError
from wasskit.plugins.mrl.search.storage import Change, Segment, Store
from wasskit.text import short_text

LARGEST = (1 << 63) - 1
"""Ids are below it: as int64 it is the next one after the largest."""


@dataclass(frozen=True)
class IdColumn:
    """The ids of a segment, mapped into memory.

    Args:
        values: (N,) int64, or the bytes (uint8) of all texts; ``offsets`` (N + 1,): where each begins.
    """

    values: NDArray[Any]
    offsets: NDArray[Any] | None = None

    @classmethod
    def open(cls, store: Store, segment: Segment, *, texts: bool) -> IdColumn:
        values = store.array(f"{segment.name}-ids.npy")
        offsets = store.array(f"{segment.name}-offsets.npy") if texts else None
        length = len(values) if offsets is None else len(offsets) - 1
        kinds = [array.dtype.name for array in (values, offsets) if array is not None]
        sound = kinds == (["uint8", "int64"] if texts else ["int64"])
        if not sound or length != segment.rows or (offsets is not None and int(offsets[-1]) != len(values)):
            raise UserError(f"{store.folder / segment.name}-ids.npy is damaged: it has no id for each row.")
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The ids of some rows: int64, or texts."""
        if self.offsets is None:
            return np.asarray(self.values[rows], np.int64)
        starts, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        texts = [self.values[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]
        return np.array(texts, dtype=object)

    def whole(self) -> NDArray[Any]:
        """All ids."""
        return self.at(np.arange(len(self)))

    def find(self, wanted: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows (N,) have an id that is among ``wanted``."""
        return among(self.values if self.offsets is None else self.whole(), wanted)


def as_ids(given: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Ids as int64 (N,), or as an object array of texts. Raises ``UserError`` where they are neither."""
    values = np.asarray(given)
    if values.ndim != 1:
        raise UserError(f"ids have the shape {values.shape}: give one id for each row.")
    if values.dtype.kind in "iu" or not len(values):
        if len(values) and int(values.max()) >= LARGEST:
            raise UserError(f"the id {values.max()} is too large: ids are below {LARGEST}; give larger ones as texts.")
        return values.astype(np.int64)
    if values.dtype.kind not in "UO" or not all(isinstance(value, str) for value in values.tolist()):
        raise UserError("ids are whole numbers, or texts: give them all as the one or the other.")
    return values.astype(object)


def ids_from(first: int, count: int, index: Path) -> NDArray[Any]:
    """The next ``count`` whole numbers. Raises ``UserError`` where an index has not so many left."""
    if first + count > LARGEST:
        raise UserError(f"{index} has used its last id, {first - 1}: give ids for the new rows.")
    return np.arange(first, first + count)


def check_new(new: NDArray[Any], present: Iterable[NDArray[Any]]) -> None:
    """Raises ``UserError`` where an id occurs twice among ``new``, or is one of ``present``."""
    values, counts = np.unique(new, return_counts=True)
    if len(values) < len(new):
        repeated = values[counts > 1]
        raise UserError(f"The id {named(repeated[0])} occurs more than once ({len(repeated):,} do): ids are distinct.")
    for ids in present:
        known = among(new, ids)
        if known.any():
            raise UserError(
                f"The id {named(new[known][0])} is in the index already ({int(known.sum()):,} are): delete it first, "
                "or give others."
            )


def write_ids(change: Change, name: str, ids: NDArray[Any]) -> None:
    """Write the ids of a segment."""
    if ids.dtype != object:
        change.save(f"{name}-ids.npy", ids)
        return
    try:
        encoded = [text.encode() for text in ids.tolist()]
    except UnicodeEncodeError as error:
        raise UserError(f"an id is not valid UTF-8 ({short_text(repr(error.object))}): rename it.") from error
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in encoded])]).astype(np.int64)
    change.save(f"{name}-ids.npy", np.frombuffer(b"".join(encoded), np.uint8))
    change.save(f"{name}-offsets.npy", offsets)


def among(ids: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Which ids (N,) are among the ``known``, both numbers or both texts."""
    if ids.dtype != object:
        return np.isin(ids, known)
    texts = set(known.tolist())
    return np.fromiter((text in texts for text in ids.tolist()), bool, len(ids))


def named(value: Any) -> str:
    """An id as sentences name it."""
    return short_text(repr(value) if isinstance(value, str) else value)
