"""``wasskit.PrefixIndex``: nearest neighbours among embeddings on disk, short prefixes first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from wasskit.data.embeddings import Embeddings
from wasskit.errors import UserError
from wasskit.plugins.mrl.search.building import SAMPLE, Source, write_segment
from wasskit.plugins.mrl.search.calibration import needed_shortlist
from wasskit.plugins.mrl.search.codes import Axes, CodeName, PrefixCode
from wasskit.plugins.mrl.search.graphs import check_faiss
from wasskit.plugins.mrl.search.ids import as_ids, check_new, ids_from, named
from wasskit.plugins.mrl.search.models import Encoder
from wasskit.plugins.mrl.search.parts import (
    LiveRows,
    Part,
    open_parts,
    rank,
    read_code,
    shortlist_codes,
    shortlist_whole,
)
from wasskit.plugins.mrl.search.scan import query_blocks
from wasskit.plugins.mrl.search.storage import (
    LOCK,
    Change,
    Description,
    Method,
    Store,
    has_others,
    is_index,
    read_description,
)
from wasskit.system.readers import MissingFile

__all__ = ["Neighbours", "PrefixIndex"]

_DIM = 64
_GROWTH = 4
"""An index that has grown by this factor learns its code anew, as long as it was learned from all rows."""


class Neighbours(NamedTuple):
    """Ids (Q, k), int64 or texts (object), and cosines (Q, k) float32, by falling cosine, then by id."""

    ids: NDArray[Any]
    similarities: NDArray[np.float32]


class _Opened(NamedTuple):
    """What a description names. In one: a search goes on with what it began with, whatever another thread changes."""

    description: Description
    code: PrefixCode
    parts: tuple[Part, ...]


class PrefixIndex:
    r"""Embeddings on disk and their nearest neighbours by cosine: short codes find a shortlist, whole vectors rank it.

    The codes of prefixes (:class:`wasskit.plugins.mrl.search.codes.PrefixCode`) of all rows are compared with a query,
    and then the whole vectors of the best ``shortlist`` of them. The codes should fit into the memory: 64 bytes of a
    row by default. The vectors are mapped into it, and only those of shortlists are read. Results are exact but for
    rows that miss the shortlist.

    Changes are made by one process at a time, and whole or not at all, whatever ends it. An open index sees those of
    its own process; others are seen by opening it again.

    Args:
        path: the folder of an index; ``UserError`` where there is none, or it is damaged.
        model: the trained model that queries and new vectors go through, instead of the one that the index remembers.

    Example:
        >>> import numpy as np, wasskit
        >>> vectors = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
        >>> index = wasskit.PrefixIndex.create("my.index", vectors, dim=8)
        >>> index.search(vectors[:2], k=3).ids[:, 0].tolist()  # each is its own nearest neighbour
        [0, 1]
    """

    def __init__(self, path: str | Path, *, model: str | Path | None = None) -> None:
        self.path = Path(path).expanduser()
        self._model = model
        self._store = Store(self.path)
        self._load()

    @classmethod
    def create(
        cls,
        path: str | Path,
        vectors: Any,
        *,
        ids: Sequence[Any] | NDArray[Any] | None = None,
        dim: int | None = None,
        code: CodeName = "int8",
        axes: Axes = "principal",
        method: Method = "exhaustive",
        model: str | Path | None = None,
        recall: float = 0.98,
        overwrite: bool = False,
    ) -> PrefixIndex:
        """Make an index of vectors (N, D).

        Args:
            path: the folder to make.
            vectors: an array, a tensor, or a file of embeddings, which is read in a stream. Float16 stays that; other
                numbers are stored as float32.
            ids: of the rows, distinct, whole numbers or texts; None: 0 to N - 1.
            dim: numbers of a prefix; None: 64, or D where that is smaller.
            code: what is stored of a prefix: ``float32``, ``float16``, ``int8`` or ``binary``.
            axes: prefixes are the first principal components, or with ``"given"`` the first coordinates.
            method: how a shortlist is found: ``exhaustive``, or by faiss ``hnsw`` or ``ivf`` in segments of 10,000
                rows or more.
            model: a trained model of ``wasskit mrl``, which is kept with the index. Vectors and queries go through an
                adaptor; of a model on images, the vectors are its embeddings, and queries may be images.
            recall: the share of the 10 nearest that a search is to find; the shortlist for it is measured on up to 512
                rows, each among all others. 0: it is not measured, and is 200.
            overwrite: replace an index that is there.

        Raises:
            UserError: the vectors or ids cannot be taken, or the place is taken.
        """
        _check_recall(recall)
        folder = Path(path).expanduser()
        encoder = None if model is None else Encoder.open(Path(model).expanduser())
        source = Source(vectors, encoder)
        dim = min(_DIM, source.width) if dim is None else dim
        if not 1 <= dim <= source.width:
            raise UserError(f"--dim: {dim} is not from 1 to {source.width}, the numbers of the vectors.")
        _check_rows(source)
        if method != "exhaustive":
            check_faiss()
        given = np.arange(len(source)) if ids is None else as_ids(ids)
        _check_count(given, source)
        check_new(given, ())
        _check_place(folder, overwrite)
        with _gone_unless_made(folder), Store(folder).changing() as change:
            name = change.store.next_name()
            model_file = None if encoder is None else f"{name}-model.safetensors"
            if encoder is not None and model_file is not None:
                encoder.save(change, model_file)
            draft = Description(
                source.width, dim, code, axes, method, f"{name}-code.npz", len(source), given.dtype == object, 0,
                model_file, None if encoder is None else encoder.source, recall=recall,
            )  # fmt: skip
            _commit_anew(change, draft, source, given)
        return cls(folder)

    # --- What is in it ------------------------------------------------------------------------------------------------

    @property
    def description(self) -> Description:
        return self._opened.description

    def __len__(self) -> int:
        return self.description.live

    def __repr__(self) -> str:
        of = self.description
        return f"PrefixIndex({str(self.path)!r}: {len(self):,} x {of.width}, {of.code} codes of {of.dim})"

    @property
    def ids(self) -> NDArray[Any]:
        """The ids of all rows, in the order in which they were added."""
        empty = np.empty(0, object if self.description.text_ids else np.int64)
        return LiveRows(self._opened.parts).ids() if self._opened.parts else empty

    @property
    def resident_bytes(self) -> int:
        """What a search reads of all rows: their codes, or what faiss made of them."""
        return sum(
            part.codes.nbytes if part.segment.graph is None else (self.path / part.segment.graph).stat().st_size
            for part in self._opened.parts
        )

    @property
    def stored_bytes(self) -> int:
        """All files of the index."""
        return sum(path.stat().st_size for path in self.path.iterdir())

    @cached_property
    def encoder(self) -> Encoder | None:
        """The model that queries and new vectors go through."""
        if self._model is not None:
            return Encoder.open(Path(self._model).expanduser())
        if self.description.model is None:
            return None
        found = Encoder.open(self.path / self.description.model)
        return replace(found, source=self.description.model_source or found.source)

    # --- Search -------------------------------------------------------------------------------------------------------

    def search(
        self, queries: Any, k: int = 10, *, shortlist: int | None = None, exact: bool = False, probes: int | None = None
    ) -> Neighbours:
        """The ``k`` rows with the largest cosine with each query, or all where there are fewer.

        Args:
            queries: (Q, D) as `create` takes vectors; they go through the model of the index.
            shortlist: rows whose whole vectors are compared, at least k; None: as measured when the index was made.
            exact: compare the whole vectors of all rows.
            probes: lists of an IVF, or candidates of an HNSW, that are looked into.

        Raises ``UserError`` for queries of another width, or with values that are not finite.
        """
        if k < 1 or (shortlist is not None and shortlist < 1):
            raise UserError(f"k and shortlist are {k} and {shortlist}: expected at least 1.")
        source = Source(queries, self.encoder, what="the array of queries")
        of, code, parts = self._opened
        _check_width(source, of, self.path)
        k = min(k, of.live)
        ids: NDArray[Any] = np.empty((len(source), k), object if of.text_ids else np.int64)
        similarities = np.empty((len(source), k), np.float32)
        start = 0
        size = min(k + 16 if exact else max(k, shortlist or of.needed(k)), of.live)
        for chunk in source.chunks() if k else ():
            for some in query_blocks(len(chunk), size):
                x = F.normalize(chunk[some], dim=1)
                by_codes = None if exact else shortlist_codes(parts, code, x, size, probes=probes)
                rows = shortlist_whole(parts, x, size) if by_codes is None else by_codes
                end = start + len(x)
                ids[start:end], similarities[start:end] = rank(parts, x, rows, k, texts=of.text_ids)
                start = end
        return Neighbours(ids, similarities)

    # --- Changes ------------------------------------------------------------------------------------------------------

    def add(self, vectors: Any, ids: Sequence[Any] | NDArray[Any] | None = None) -> NDArray[Any]:
        """Add vectors (N, D); their ids, given or new.

        An index that has grown to four times the rows that its code was learned from learns it anew, as `compact`.

        Raises:
            UserError: they do not fit the index, or an id is taken.
        """
        source = Source(vectors, self.encoder)
        with self._store.changing() as change:
            self._load()
            of = self.description
            _check_width(source, of, self.path)
            given = _new_ids(of, self.path, ids, len(source))
            _check_count(given, source)
            if not len(source):
                return given
            check_new(given, (part.ids.at(part.live()) for part in self._opened.parts))
            segment = write_segment(change, source, given, self._opened.code, of.method)
            after = replace(of, segments=(*of.segments, segment), next_id=_next_id(given, of.next_id))
            change.commit(after)
            self._load()
            if len(self) >= _GROWTH * of.learned_from and of.learned_from < SAMPLE:
                self._compact(change)
        return given

    def delete(self, ids: Sequence[Any] | NDArray[Any]) -> int:
        """Delete rows by their ids; how many. Their vectors stay on the disk until the index is compacted.

        Raises:
            UserError: an id is not in the index; nothing is deleted then.
        """
        with self._store.changing() as change:
            self._load()
            wanted = np.unique(_same_kind(self.description, self.path, as_ids(ids)))
            missing, segments = wanted, []
            for part in self._opened.parts:
                found = part.ids.find(wanted)
                found[part.deleted] = False
                missing = np.setdiff1d(missing, part.ids.at(found.nonzero()[0]), assume_unique=True)
                rows = np.union1d(part.deleted, found.nonzero()[0])
                segments.append(change.delete(part.segment, rows) if found.any() else part.segment)
            if len(missing):
                raise UserError(
                    f"There is no id {named(missing[0])} in the index {self.path} ({len(missing):,} of "
                    f"{len(wanted):,} are not there): nothing was deleted."
                )
            kept = tuple(segment for segment in segments if segment is not None)
            change.commit(replace(self.description, segments=kept))
        self._load()
        return len(wanted)

    def compact(self) -> None:
        """Write all rows anew as one segment, without deleted ones, with a code that is learned from them."""
        with self._store.changing() as change:
            self._load()
            self._compact(change)

    def _compact(self, change: Change) -> None:
        if self._opened.parts:
            rows: Any = LiveRows(self._opened.parts)
            draft = replace(
                self.description, segments=(), code_file=f"{change.store.next_name()}-code.npz", learned_from=len(self)
            )
            _commit_anew(change, draft, Source(Embeddings(str(self.path), rows)), rows.ids())
        self._load()

    def _load(self) -> None:
        """Open what the description names; once more where a writer has replaced it meanwhile."""
        for last in (False, True):
            of = read_description(self.path)
            try:
                code = read_code(self._store, of)
                self._opened = _Opened(of, code, open_parts(self._store, of, code))
                return
            except MissingFile:
                if last:
                    raise


@contextlib.contextmanager
def _gone_unless_made(folder: Path) -> Iterator[None]:
    """Where an index could not be made, no new folder is left."""
    new = not folder.exists()
    try:
        yield
    finally:
        if new and folder.is_dir() and not is_index(folder):
            # Unless another one, which was faster, is making an index there.
            with contextlib.suppress(OSError, UserError), Store(folder).changing():
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()


def _commit_anew(change: Change, draft: Description, source: Source, ids: NDArray[Any]) -> None:
    """Write all rows of an index as its only segment, with a new code."""
    code = PrefixCode.learn(source.sample(), draft.dim, draft.code, draft.axes)
    change.save_archive(draft.code_file, code.arrays())
    segment = write_segment(change, source, ids, code, draft.method)
    made = replace(draft, segments=(segment,), next_id=_next_id(ids, draft.next_id))
    if made.recall:
        needed = needed_shortlist(open_parts(change.store, made, code), code, made.recall)
        made = replace(made, shortlist=needed.size, found=needed.recall)
    change.commit(made)


def _next_id(ids: NDArray[Any], before: int) -> int:
    return before if ids.dtype == object else max(before, int(ids.max()) + 1)


def _check_width(source: Source, of: Description, path: Path) -> None:
    if source.width != of.width:
        raise UserError(f"{source.where} has vectors of {source.width} numbers, the index {path} {of.width}.")


def _check_count(ids: NDArray[Any], source: Source) -> None:
    if len(ids) != len(source):
        raise UserError(f"{len(ids):,} ids do not fit the {len(source):,} rows of {source.where}.")


def _check_rows(source: Source) -> None:
    if not len(source):
        raise UserError(f"{source.where} has no rows to make an index of.")


def _check_recall(recall: float) -> None:
    if not 0 <= recall < 1:
        raise UserError(f"--recall: {recall} is not from 0 to below 1.")


def _check_place(folder: Path, overwrite: bool) -> None:
    """Raises ``UserError`` where there is something that a new index would replace or mix with."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another place for the index.")
    if is_index(folder) and not overwrite:
        raise UserError(f"{folder} is an index already: choose another --output, or replace it by --overwrite.")
    if folder.is_dir() and not is_index(folder) and has_others(folder):
        raise UserError(f"{folder} is a folder with other files: choose another place for the index.")


def _new_ids(of: Description, path: Path, ids: Sequence[Any] | NDArray[Any] | None, count: int) -> NDArray[Any]:
    if ids is not None:
        return _same_kind(of, path, as_ids(ids))
    if of.text_ids:
        raise UserError(f"the ids of {path} are texts: give one for each new row.")
    return ids_from(of.next_id, count, path)


def _same_kind(of: Description, path: Path, ids: NDArray[Any]) -> NDArray[Any]:
    """The ids as those of the index; numbers are texts too."""
    if of.text_ids:
        return ids.astype(str).astype(object)
    if ids.dtype == object:
        raise UserError(f"the ids of {path} are whole numbers, not texts such as {named(ids[0])}.")
    return ids
