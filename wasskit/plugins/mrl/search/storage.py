"""The folder of an index: its description, its files, and how it changes without ever being invalid.

``index.json``, the description, names all other files, and these are never changed: rows that are added go to files of
a new segment, deletions to a new list, both under names that no earlier file has had. A change is done when the new
description replaces the old one; what a killed writer leaves behind is named by none and is removed by the next writer.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wasskit.errors import UserError
from wasskit.plugins.mrl.search.codes import CODES, Axes, CodeName
from wasskit.system.arrays import map_array, write_header
from wasskit.system.documents import read_json
from wasskit.system.files import is_leftover, replace_file, replace_text, replacing, writing
from wasskit.system.locks import LockHeld, held

DESCRIPTION = "index.json"
LOCK = ".lock"
FORMAT = 1
Method = Literal["exhaustive", "hnsw", "ivf"]
_OURS = re.compile(r"(\d{6})-(vectors|codes|ids|offsets|deleted|code|graph|model)\.(npy|npz|faiss|safetensors)")


@dataclass(frozen=True)
class Segment:
    """Rows that were added together.

    Args:
        name: the prefix of its files: ``vectors.npy`` (N, D), ``codes.npy``, ``ids.npy`` and, of ids that are texts,
            ``offsets.npy``.
        rows: N, deleted ones included.
        deleted: the file of the deleted rows, ascending; ``gone``: how many they are.
        graph: the file of faiss, and its ``checksum``; without one its codes are compared one by one.
    """

    name: str
    rows: int
    deleted: str | None = None
    gone: int = 0
    graph: str | None = None
    checksum: int = 0

    @property
    def live(self) -> int:
        return self.rows - self.gone

    def files(self) -> set[str]:
        parts = {f"{self.name}-{part}.npy" for part in ("vectors", "codes", "ids", "offsets")}
        return parts | {name for name in (self.deleted, self.graph) if name is not None}


@dataclass(frozen=True)
class Description:
    """What ``index.json`` holds.

    Args:
        width: D, numbers of a stored vector.
        code: of prefixes; the file ``code_file`` holds what it has learned, from an index of ``learned_from`` rows.
        method: how a shortlist is found.
        text_ids: whether ids are texts; otherwise whole numbers, of which ``next_id`` has not been used.
        model: the file of the model that queries go through; ``model_source``: where it was found.
        recall: the share of the 10 nearest that a shortlist is to hold; 0: it was not measured.
        shortlist: how many rows did so among ``learned_from``; ``found``: the share that they held.
    """

    width: int
    dim: int
    code: CodeName
    axes: Axes
    method: Method
    code_file: str
    learned_from: int
    text_ids: bool
    next_id: int
    model: str | None = None
    model_source: str | None = None
    segments: tuple[Segment, ...] = ()
    recall: float = 0.0
    shortlist: int = 200
    found: float = 0.0

    def needed(self, k: int) -> int:
        """Rows of a shortlist for ``k`` neighbours, in proportion to the rows that there are, and to k beyond 10."""
        if not self.recall:
            return max(k, self.shortlist)
        return max(k, math.ceil(self.shortlist * max(1.0, self.live / self.learned_from) * max(1.0, k / 10)))

    @property
    def live(self) -> int:
        return sum(segment.live for segment in self.segments)

    def files(self) -> set[str]:
        found = {self.code_file} | ({self.model} if self.model else set())
        return found.union(*(segment.files() for segment in self.segments))


def is_index(path: Path) -> bool:
    """Whether a folder is that of an index."""
    return (path / DESCRIPTION).is_file()


def has_others(folder: Path) -> bool:
    """Whether a folder holds files that no index has; those of an unfinished index do not count."""
    return not all(
        path.name in (LOCK, DESCRIPTION) or _OURS.fullmatch(path.name) or is_leftover(path) for path in folder.iterdir()
    )


def read_description(folder: Path) -> Description:
    """The description in a folder. Raises ``UserError`` where there is none, or a damaged one."""
    if not is_index(folder):
        raise UserError(f"There is no index at {folder}: make one by `wasskit mrl index create`.")
    content = read_json(folder / DESCRIPTION)
    if isinstance(content, dict) and content.get("format") not in (FORMAT, None):
        raise UserError(f"{folder} is an index of another version of wasskit: make it again.")
    try:
        values = {name: value for name, value in content.items() if name != "format"}
        segments = tuple(Segment(**segment) for segment in values.pop("segments"))
        found = Description(**values, segments=segments)
        sound = _is_sound(found)
    except (AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{folder / DESCRIPTION} is damaged: it does not describe an index; make the index again.")
    return found


def _is_sound(found: Description) -> bool:
    counts = [found.width, found.dim, *(segment.rows for segment in found.segments)]
    numbers = [
        found.learned_from,
        found.next_id,
        *(n for segment in found.segments for n in (segment.gone, segment.checksum)),
    ]
    return (
        all(type(count) is int and 0 < count < 1 << 40 for count in counts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and all(segment.gone < segment.rows for segment in found.segments)
        and found.dim <= found.width
        and found.code in CODES
        and found.axes in get_args(Axes)
        and found.method in get_args(Method)
        and type(found.text_ids) is bool
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in (found.recall, found.found))
        and type(found.shortlist) is int
        and 0 < found.shortlist < 1 << 32
        and found.learned_from > 0
        and all(_OURS.fullmatch(name) for name in found.files())
    )


class Store:
    """The files of an index, for reading; :meth:`changing` for a change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, name: str, *, own: bool = False) -> NDArray[Any]:
        """An array, mapped into memory; ``own``: it may be written to, which changes no file."""
        return map_array(self.folder / name, own=own)

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """A change of this process alone; without :meth:`Change.commit` nothing has changed.

        Raises:
            UserError: another process or thread is changing the index, or the file system refuses.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _alone(self.folder.resolve()), held(self.folder / LOCK):
                self.clear()
                change = Change(self)
                try:
                    yield change
                finally:
                    self.clear()
        except LockHeld as taken:
            raise UserError(
                f"Another process ({taken}) is changing the index {self.folder}: wait for it, and do it again."
            ) from None

    def clear(self) -> None:
        """Remove files that the description does not name. Only for the holder of the lock."""
        named: set[str] = set()
        if is_index(self.folder):
            try:
                named = read_description(self.folder).files()
            except UserError:  # nothing is known of its files
                return
        for path in self.folder.iterdir():
            if (_OURS.fullmatch(path.name) and path.name not in named) or is_leftover(path):
                with contextlib.suppress(OSError):
                    path.unlink()

    def next_name(self) -> str:
        """A prefix that no file of the folder has."""
        found = [_OURS.fullmatch(path.name) for path in self.folder.iterdir()]
        return f"{max((int(match[1]) for match in found if match), default=0) + 1:06d}"


_CHANGING: set[Path] = set()
_GUARD = threading.Lock()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One thread of this process at a time: a lock on a file is the process's, and falls when any thread closes it."""
    with _GUARD:
        if folder in _CHANGING:
            raise LockHeld("this one, in another thread")
        _CHANGING.add(folder)
    try:
        yield
    finally:
        _CHANGING.discard(folder)


class Change:
    """New files of an index, and the description that makes them part of it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = store.folder

    def commit(self, description: Description) -> None:
        """Replace the description; all files that it names are on the disk."""
        content = {"format": FORMAT, **asdict(description)}
        replace_text(self.folder / DESCRIPTION, json.dumps(content, indent=1) + "\n")

    def save(self, name: str, array: NDArray[Any]) -> str:
        replace_file(self.folder / name, lambda file: np.save(file, array, allow_pickle=False))
        return name

    def save_archive(self, name: str, arrays: Mapping[str, Any]) -> None:
        replace_file(self.folder / name, lambda file: np.savez(file, **arrays))

    def delete(self, segment: Segment, rows: NDArray[np.int64]) -> Segment | None:
        """The segment without so many of its rows, ascending; None where none is left."""
        if len(rows) == segment.rows:
            return None
        name = self.save(f"{self.store.next_name()}-deleted.npy", rows)
        return replace(segment, deleted=name, gone=len(rows))


@contextlib.contextmanager
def streamed(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[Callable[[NDArray[Any]], object]]:
    """A ``.npy`` file that appears when it is complete: a function that writes its next rows."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_header(file, shape, dtype)
        yield lambda rows: file.write(np.ascontiguousarray(rows, dtype).data)
