"""The open segments of an index: a shortlist by codes, ranked by the whole vectors. Memory is that of one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wasskit.errors import UserError
from wasskit.evaluation.ties import blocks
from wasskit.plugins.mrl.search.codes import PrefixCode
from wasskit.plugins.mrl.search.graphs import faiss_rows, read_graph
from wasskit.plugins.mrl.search.ids import IdColumn
from wasskit.plugins.mrl.search.scan import Best, products, tiles
from wasskit.plugins.mrl.search.storage import Description, Segment, Store
from wasskit.system.arrays import read_archive, read_array

_RANKED = 1 << 21
"""Numbers of whole vectors of shortlists that are held at once: they stay in the cache."""


@dataclass(frozen=True)
class Part:
    """A segment, its arrays mapped into memory.

    Args:
        first: the number of its first row among those of the index.
        vectors: (N, D) float16 or float32; ``codes``: (N, width).
        deleted: rows that are deleted, ascending.
        graph: of faiss, where it has one.
    """

    segment: Segment
    first: int
    vectors: NDArray[Any]
    codes: NDArray[Any]
    ids: IdColumn
    deleted: NDArray[np.int64]
    graph: Any = None

    @classmethod
    def open(cls, store: Store, segment: Segment, first: int, of: Description, code: PrefixCode) -> Part:
        vectors = store.array(f"{segment.name}-vectors.npy")
        # Tensors are made of codes without a copy, which torch warns of where they cannot be written to.
        codes = store.array(f"{segment.name}-codes.npy", own=True)
        deleted = np.empty(0, np.int64) if segment.deleted is None else read_array(store.folder / segment.deleted)
        expected = ((segment.rows, of.width), (segment.rows, code.width), (segment.gone,))
        sound = (vectors.shape, codes.shape, deleted.shape) == expected and vectors.dtype in (np.float16, np.float32)
        if not sound or codes.dtype != code.dtype or deleted.dtype != np.int64 or not _are_rows(deleted, segment.rows):
            raise UserError(f"{store.folder} is damaged: the files {segment.name}-* do not fit its description.")
        graph = None
        if segment.graph is not None:
            graph = read_graph(store.folder / segment.graph, segment.rows, of.dim, segment.checksum)
        ids = IdColumn.open(store, segment, texts=of.text_ids)
        return cls(segment, first, vectors, codes, ids, deleted, graph)

    def absent(self, rows: slice) -> Tensor | None:
        """Which of these rows are deleted, counted from the first of them; None: none is."""
        low, high = np.searchsorted(self.deleted, (rows.start, rows.stop))
        return torch.from_numpy(self.deleted[low:high] - rows.start) if high > low else None

    def live(self) -> NDArray[np.int64]:
        """The rows that are not deleted, ascending."""
        kept = np.ones(self.segment.rows, bool)
        kept[self.deleted] = False
        return kept.nonzero()[0]


def read_code(store: Store, of: Description) -> PrefixCode:
    """The code of an index. Raises ``UserError`` where its file does not fit the description."""
    arrays = read_archive(store.folder / of.code_file)
    shapes = {"low": (of.dim,), "step": (of.dim,)} | ({"axes": (of.dim, of.width)} if of.axes == "principal" else {})
    if {name: array.shape for name, array in arrays.items()} != shapes or any(
        array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()
    ):
        raise UserError(f"{store.folder / of.code_file} is damaged: it does not fit the index's description.")
    return PrefixCode.of_arrays(of.code, arrays)


def open_parts(store: Store, of: Description, code: PrefixCode) -> tuple[Part, ...]:
    """All segments. Raises ``UserError`` where files do not fit the description."""
    firsts = np.cumsum([0, *(segment.rows for segment in of.segments)])
    return tuple(
        Part.open(store, segment, int(first), of, code) for segment, first in zip(of.segments, firsts, strict=False)
    )


def _are_rows(deleted: NDArray[np.int64], rows: int) -> bool:
    return not len(deleted) or bool(deleted[0] >= 0 and deleted[-1] < rows and (np.diff(deleted) > 0).all())


# --- Search -----------------------------------------------------------------------------------------------------------


def shortlist_codes(
    parts: Sequence[Part], code: PrefixCode, queries: Tensor, size: int, *, probes: int | None = None
) -> Tensor:
    """The ``size`` rows whose codes are most similar to each query: (Q, size) int64; -1 where there are fewer.

    Of equally similar rows the first, where products are whole numbers (``int8``, ``binary``).
    """
    weights = code.weights(queries)
    best = Best(len(queries), size, whole_numbers=code.whole_numbers)
    for part in parts:
        if part.graph is not None:
            rows = faiss_rows(part.graph, code.prefixes(queries), size, part.deleted, probes)
            tile = code.tile(part.codes[rows.clamp(min=0).flatten().numpy()]).view(*rows.shape, -1)
            scores = (tile.float() * weights[:, None].float()).sum(2)
            best.add_rows(scores, torch.where(rows < 0, rows, rows + part.first))
            continue
        for tile_of in tiles(part.segment.rows, len(queries), code.dim):
            scores = products(weights, code.tile(part.codes[tile_of]))
            best.add(scores, part.first + tile_of.start, part.absent(tile_of))
    return best.rows()


def shortlist_whole(parts: Sequence[Part], queries: Tensor, size: int) -> Tensor:
    """As :func:`shortlist_codes`, by the whole vectors: ``queries`` (Q, D) are of unit length."""
    best = Best(len(queries), size, whole_numbers=False)
    for part in parts:
        for rows in tiles(part.segment.rows, len(queries), queries.shape[1]):
            tile = F.normalize(torch.from_numpy(part.vectors[rows].astype(np.float32)), dim=1)
            best.add(products(queries, tile), part.first + rows.start, part.absent(rows))
    return best.rows()


def rank(
    parts: Sequence[Part], queries: Tensor, rows: Tensor, k: int, *, texts: bool
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The ids (Q, k) and cosines (Q, k) of the k nearest of given rows (Q, S), by falling cosine, then by id.

    Cosines are of the whole vectors with unit ``queries`` (Q, D), summed for each row by itself: equal rows have equal
    ones, wherever they lie. A row -1 is none; its id is -1, or an empty text, and its cosine NaN.
    """
    found = torch.full(rows.shape, -torch.inf)
    most = max(1, _RANKED // queries.shape[1])
    for part in blocks(len(queries), max(1, most // rows.shape[1])):
        for some in blocks(rows.shape[1], most):
            vectors = _vectors(parts, rows[part, some])
            norms = torch.linalg.vector_norm(vectors, dim=2)
            cosines = vectors.mul_(queries[part, None]).sum(2) / norms.clamp(min=torch.finfo(torch.float32).tiny)
            found[part, some] = torch.where(rows[part, some] < 0, -torch.inf, cosines.clamp(-1, 1))
    cosines, order = found.sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    tied = (cosines[:, 1 : k + 1] == cosines[:, :-1][:, :k]).any(1).nonzero()[:, 0]
    if len(tied):
        ids = ids_of(parts, rows[tied].numpy(), texts=texts)
        places = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) if texts else ids
        by_id = torch.from_numpy(np.lexsort((places, -cosines[tied].numpy())))
        rows[tied] = rows[tied].gather(1, by_id)
    rows, cosines = rows[:, :k], cosines[:, :k]
    nearest = torch.where(rows < 0, torch.nan, cosines).numpy()
    return ids_of(parts, rows.numpy(), texts=texts), nearest


def ids_of(parts: Sequence[Part], rows: NDArray[np.int64], *, texts: bool) -> NDArray[Any]:
    """The ids of rows of any shape; -1 or an empty text for the row -1."""
    found: NDArray[Any] = np.full(rows.shape, "" if texts else -1, object if texts else np.int64)
    for part, inside in _by_part(parts, rows):
        found[inside] = part.ids.at(rows[inside] - part.first)
    return found


def _vectors(parts: Sequence[Part], rows: Tensor) -> Tensor:
    """The vectors of rows (Q, S): (Q, S, D) float32; those of a row -1 are any."""
    shape = (*rows.shape, parts[0].vectors.shape[1])
    if len(parts) == 1:
        return (
            torch.from_numpy(np.take(parts[0].vectors, rows.flatten().numpy(), axis=0, mode="wrap")).float().view(shape)
        )
    found = torch.zeros(shape)
    for part, inside in _by_part(parts, rows.numpy()):
        found[torch.from_numpy(inside)] = torch.from_numpy(part.vectors[rows.numpy()[inside] - part.first]).float()
    return found


def _by_part(parts: Sequence[Part], rows: NDArray[np.int64]) -> Iterator[tuple[Part, NDArray[np.bool_]]]:
    for part in parts:
        inside = (rows >= part.first) & (rows < part.first + part.segment.rows)
        if inside.any():
            yield part, inside


# --- All rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LiveRows:
    """The vectors of all rows that are not deleted, read as they are used, as `wasskit.data.embeddings` takes them."""

    parts: Sequence[Part]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.segment.live for part in self.parts), self.parts[0].vectors.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        half = all(part.vectors.dtype == np.float16 for part in self.parts)
        return torch.float16 if half else torch.float32

    def split(self, rows: int) -> Iterator[Tensor]:
        for part in self.parts:
            live = part.live()
            for some in blocks(len(live), rows):
                yield torch.from_numpy(part.vectors[live[some]])

    def __getitem__(self, indices: Tensor) -> Tensor:
        places, found = indices.numpy(), np.empty((len(indices), self.shape[1]), np.float32)
        start = 0
        for part in self.parts:
            live = part.live()
            inside = (places >= start) & (places < start + len(live))
            found[inside] = part.vectors[live[places[inside] - start]]
            start += len(live)
        return torch.from_numpy(found)

    def ids(self) -> NDArray[Any]:
        """Their ids."""
        return np.concatenate([part.ids.at(part.live()) for part in self.parts])
