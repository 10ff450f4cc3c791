"""The rows of an index whose codes are most similar to queries, in one pass over tiles of them.

A pass costs one product of matrices and one pass for maxima. Once a query's list is full, only blocks with a maximum
above the last entry of the list are looked into; of N rows in random order some size * log(N / tile) enter it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.evaluation.ties import blocks

_LOWEST_WHOLE = -(1 << 25)
_ROWS = (1 << 32) - 1
BLOCK = 16
"""Entries of a block whose maximum is compared."""
QUERIES = 256
"""Queries that are searched for at once."""
_TILE = 1 << 20
"""Products that are computed at once."""
_NUMBERS = 1 << 24
"""Numbers of rows that are held at once."""
_FIRST = 1024
_KEPT = 1 << 22
"""Entries of all lists that are kept at once."""


def tiles(rows: int, queries: int, dim: int) -> Iterator[slice]:
    """The rows of an index in parts, for so many queries and numbers of a row.

    The first are small: what is compared with lists that are not good yet costs most.
    """
    most = max(BLOCK, min(1 << 16, _TILE // queries, _NUMBERS // dim) // BLOCK * BLOCK)
    size, start = min(_FIRST, most), 0
    while start < rows:
        yield slice(start, min(start + size, rows))
        start, size = start + size, min(most, max(size, start))


def products(weights: Tensor, tile: Tensor) -> Tensor:
    """Inner products (Q, R) of weights (Q, d) with a tile (R, d), contiguous.

    float32 of float32. Of int8, where their sums stay below 2^24: exact whole numbers, as int32 or float32.
    """
    if tile.dtype != torch.int8:
        return weights @ tile.T
    # A single column, transposed, is taken for a matrix of other strides by the product of bytes.
    by_bytes = tile.shape[1] > 1 and has_byte_products()
    return _bytes_product(weights, tile) if by_bytes else _floats_product(weights, tile)


def _bytes_product(weights: Tensor, tile: Tensor) -> Tensor:
    # Not of torch's documented surface; hence the trial below, and the way without it.
    found: Tensor = torch._int_mm(weights, tile.T)
    return found


def _floats_product(weights: Tensor, tile: Tensor) -> Tensor:
    return weights.float() @ tile.float().T


@lru_cache(maxsize=1)
def has_byte_products() -> bool:
    """Whether this machine multiplies int8 matrices exactly, and faster than float32 ones.

    Processors without instructions for it may let sums of two products saturate, and emulations are slow. As both ways
    give the same numbers, the choice changes nothing but the time.
    """
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, shape, generator=generator) for shape in ((64, 64), (2048, 64))]
    weights, tile = (signs[0] * 254 - 127).to(torch.int8), (signs[1] * 255 - 128).to(torch.int8)
    ways: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_bytes_product, _floats_product)
    try:
        found = [way(weights, tile) for way in ways]
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    if not torch.equal(found[0].float(), found[1]):
        return False
    seconds = [float("inf")] * 2
    for _ in range(3):
        for place, way in enumerate(ways):
            began = time.perf_counter()
            way(weights, tile)
            seconds[place] = min(seconds[place], time.perf_counter() - began)
    return seconds[0] < seconds[1]


class Best:
    """The rows with the largest products with each of Q queries, of all tiles so far: of equal ones the first.

    Tiles come in the order of their rows. A product and its row are one int64, the *key*: keys are distinct, and their
    order is that of the products, then that of the rows from the last to the first.

    Args:
        size: how many rows are kept for each query.
        whole_numbers: the products are whole numbers below 2^24 (int32 or float32); otherwise float32.
    """

    def __init__(self, queries: int, size: int, *, whole_numbers: bool) -> None:
        self.size = size
        self.whole_numbers = whole_numbers
        self.lowest: float = _LOWEST_WHOLE if whole_numbers else -np.inf
        lowest = np.array([self.lowest], np.int32 if whole_numbers else np.float32)
        self._empty = self._keys(lowest, np.array([_ROWS]))[0]
        self._found = np.full((queries, size), self._empty)  # of each query the smallest first, the others in no order
        self._pending: list[tuple[NDArray[np.uint16], NDArray[np.int64]]] = []
        self._waiting = 0

    def add(self, scores: Tensor, start: int, absent: Tensor | None = None) -> None:
        """Take in the products (Q, R), which are changed, of the rows from ``start`` on; ``absent``: those left out."""
        if absent is not None:
            scores[:, absent] = self.lowest
        last = self._found[:, 0] >> 32
        if (last == self._empty >> 32).any():
            self._merge()
            rows = np.arange(start, start + scores.shape[1])
            self._keep(self._keys(scores.numpy(), rows))
            return
        last = self._products(last, scores.numpy().dtype)
        depth = BLOCK if scores.shape[1] % BLOCK == 0 else 1
        # Strided blocks: the maximum of several rows of numbers, instead of several numbers in a row, is vectorised.
        parted = scores.view(len(scores), depth, -1)
        stride = parted.shape[2]
        high = np.flatnonzero(parted.amax(1).numpy() > last[:, None])
        query, column = np.divmod(high, stride)
        places = (query * scores.shape[1] + column)[:, None] + np.arange(depth) * stride
        inside = scores.view(-1).numpy().take(places)
        chosen = np.flatnonzero(inside > last[query, None])
        block, level = np.divmod(chosen, depth)
        if len(chosen):
            keys = self._keys(inside.reshape(-1)[chosen], column[block] + level * stride + start)
            self._pending.append((query[block].astype(np.uint16), keys))
            self._waiting += len(keys)
        if self._waiting > len(scores) * self.size // 2:
            self._merge()

    def add_rows(self, scores: Tensor, rows: Tensor) -> None:
        """Take in products (Q, n) of rows (Q, n), distinct for a query; those of rows below 0 are left out."""
        keys = self._keys(scores.numpy(), rows.numpy())
        self._keep(np.where(rows.numpy() < 0, self._empty, keys))

    def rows(self) -> Tensor:
        """The rows (Q, size) int64, by falling product; -1 where there are fewer."""
        self._merge()
        keys = np.sort(self._found, axis=1)[:, ::-1]
        return torch.from_numpy(np.where(keys >> 32 > self._empty >> 32, _ROWS - (keys & _ROWS), -1))

    def _merge(self) -> None:
        if not self._pending:
            return
        query, keys = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        order = np.argsort(query, kind="stable")
        query, keys = query[order], keys[order]
        counts = np.bincount(query, minlength=len(self._found))
        places = np.arange(len(query)) - (counts.cumsum() - counts)[query]
        padded = np.full((len(self._found), counts.max()), self._empty)
        padded[query, places] = keys
        self._keep(padded)

    def _keep(self, keys: NDArray[np.int64]) -> None:
        joined = np.concatenate([self._found, keys], 1)
        self._found = np.partition(joined, -self.size, axis=1)[:, -self.size :]

    def _keys(self, scores: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        level = scores if self.whole_numbers else _ordered(scores.view(np.int32))
        return (level.astype(np.int64) << 32) | (_ROWS - rows)

    def _products(self, level: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The products of which ``level`` are the upper halves of keys."""
        return level.astype(dtype) if self.whole_numbers else _ordered(level.astype(np.int32)).view(np.float32)


def _ordered(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of float32 as int32 of the same order, and back; -0.0 comes before 0.0."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def query_blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of queries that are searched for at once, with lists of so many rows."""
    yield from blocks(count, max(1, min(QUERIES, _KEPT // size)))
