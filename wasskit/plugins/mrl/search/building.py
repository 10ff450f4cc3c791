"""New segments of an index: vectors read in a stream, coded and written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.data.embeddings import Embeddings, MappedVectors, open_embeddings
from wasskit.data.samplers import some_rows
from wasskit.errors import UserError
from wasskit.plugins.mrl.search.codes import PrefixCode
from wasskit.plugins.mrl.search.graphs import LEAST, write_graph
from wasskit.plugins.mrl.search.ids import write_ids
from wasskit.plugins.mrl.search.models import Encoder
from wasskit.plugins.mrl.search.storage import Change, Method, Segment, streamed

SAMPLE = 65_536
"""Rows of the largest sample that a code is learned from."""
_CHUNK = 8192
_NUMBERS = 1 << 26


class Source:
    """Vectors (N, D) as they enter an index: read some at a time, through a model where there is one.

    Args:
        vectors: an array or tensor, an open file, or the path of one.
        what: they are, as sentences name an array.
    """

    def __init__(self, vectors: Any, encoder: Encoder | None = None, *, what: str = "the array of vectors") -> None:
        self._rows = _embeddings(vectors, what)
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def where(self) -> str:
        return self._rows.where

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which the vectors are stored: float16 stays that, as long as no model changes the vectors."""
        plain = self._encoder is None or self._encoder.takes_images
        return np.dtype(np.float16 if plain and self._rows.dtype == torch.float16 else np.float32)

    @property
    def width(self) -> int:
        """Numbers of a vector as it is stored."""
        return self._rows.shape[1] if self._encoder is None else self._encoder.width

    def chunks(self, rows: int = _CHUNK) -> Iterator[Tensor]:
        """The vectors in order, (up to ``rows``, width) float32 at a time. Raises ``UserError`` for other numbers."""
        for chunk in self._rows.chunks(rows):
            yield self._through(chunk)

    def sample(self) -> Tensor:
        """A random sample of the vectors, the same each time."""
        size = min(SAMPLE, max(_CHUNK, _NUMBERS // self.width))
        if len(self) <= size:
            return torch.cat([*self.chunks()])
        drawn = some_rows(len(self), size, 0)
        return torch.cat([self._through(self._rows.rows(some)) for some in drawn.split(_CHUNK)])

    def _through(self, chunk: Tensor) -> Tensor:
        return chunk if self._encoder is None else self._encoder.vectors(chunk, self.where)


def _embeddings(vectors: Any, what: str) -> Embeddings:
    if isinstance(vectors, Embeddings):
        return vectors
    if hasattr(vectors, "__fspath__") or isinstance(vectors, str):
        return open_embeddings(Path(vectors).expanduser())
    x = vectors.detach().cpu() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(f"{what} must be a matrix (N, D), not of shape {tuple(x.shape)}.")
    if isinstance(x, Tensor):
        return Embeddings(what, x if x.is_floating_point() else x.float())
    if x.dtype.kind not in "fiub":
        raise UserError(f"{what} holds {x.dtype}, not numbers.")
    return Embeddings(what, MappedVectors(Path(), x))


def write_segment(change: Change, source: Source, ids: NDArray[Any], code: PrefixCode, method: Method) -> Segment:
    """Write vectors, codes, ids and, of a large segment, what faiss makes of them; nothing names the files yet."""
    name = change.store.next_name()
    folder, rows = change.folder, len(source)
    with contextlib.ExitStack() as stack:
        write_vectors = stack.enter_context(
            streamed(folder / f"{name}-vectors.npy", (rows, source.width), source.dtype)
        )
        write_codes = stack.enter_context(streamed(folder / f"{name}-codes.npy", (rows, code.width), code.dtype))
        for chunk in source.chunks():
            write_vectors(chunk.numpy())
            write_codes(code.encode(chunk))
    write_ids(change, name, ids)
    graph, checksum = None, 0
    if method != "exhaustive" and rows >= LEAST:
        graph = f"{name}-graph.faiss"
        checksum = write_graph(change, graph, change.store.array(f"{name}-vectors.npy"), code, method)
    return Segment(name, rows, graph=graph, checksum=checksum)
