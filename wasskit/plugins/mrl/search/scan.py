"""The rows of an index whose codes are most similar to queries, in one pass over tiles of them.

A pass costs one product of matrices and one pass for maxima. Once a query's list is full, only blocks with a maximum
above the last entry of the list are looked into; of N rows in random order some size * log(N / tile) enter it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["BLOCK", "Best", "has_byte_products", "products", "query_blocks", "tile_rows"]

_LOWEST_WHOLE = -(1 << 25)
_ROWS = (1 << 32) - 1
BLOCK = 32
"""Entries of a block whose maximum is compared."""
QUERIES = 256
"""Queries that are searched for at once."""
_TILE = 1 << 20
"""Products that are computed at once."""


def tile_rows(queries: int) -> int:
    """Rows of a tile for so many queries, a multiple of ``BLOCK``."""
    return max(BLOCK, min(1 << 16, _TILE // max(1, queries) // BLOCK * BLOCK))


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
    order is that of the products, falling, then of the rows, rising.

    Args:
        size: how many rows are kept for each query.
        whole_numbers: the products are whole numbers below 2^24 (int32 or float32); otherwise float32.
    """

    def __init__(self, queries: int, size: int, *, whole_numbers: bool) -> None:
        self.size = size
        self.whole_numbers = whole_numbers
        self.lowest: float = _LOWEST_WHOLE if whole_numbers else -torch.inf
        self._empty = int(self._keys(torch.tensor([self.lowest]), torch.tensor([_ROWS])))
        self._found = torch.full((queries, size), self._empty, dtype=torch.int64)
        self._last = torch.full((queries, 1), self.lowest)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Tensor, start: int, absent: Tensor | None = None) -> None:
        """Take in the products (Q, R), which are changed, of the rows from ``start`` on; ``absent``: those left out."""
        if absent is not None:
            scores[:, absent] = self.lowest
        last = self._last.to(scores.dtype)
        if bool((self._last == self.lowest).any()):
            self._take_all(scores, start)
            return
        depth = BLOCK if scores.shape[1] % BLOCK == 0 else 1
        # Strided blocks: the maximum of 32 rows of numbers, instead of 32 numbers in a row, is vectorised.
        blocks = scores.view(len(scores), depth, -1)
        query, column = (blocks.amax(1) > last).nonzero(as_tuple=True)
        if len(query) == 0:
            return
        inside = blocks[query, :, column]
        place, level = (inside > last[query]).nonzero(as_tuple=True)
        query = query[place]
        rows = column[place] + level * blocks.shape[2] + start
        self._pending.append((query, self._keys(inside[place, level], rows)))
        if sum(len(keys) for _, keys in self._pending) > len(scores) * self.size // 2:
            self._merge()

    def add_rows(self, scores: Tensor, rows: Tensor) -> None:
        """Take in products (Q, n) of rows (Q, n), distinct for a query; those of rows below 0 are left out."""
        keys = self._keys(scores, rows)
        self._keep(torch.where(rows < 0, self._empty, keys))

    def rows(self) -> Tensor:
        """The rows (Q, size) int64, by falling product; -1 where there are fewer."""
        self._merge()
        keys = self._found.sort(dim=1, descending=True).values
        return torch.where(keys >> 32 > self._empty >> 32, _ROWS - (keys & _ROWS), -1)

    def _take_all(self, scores: Tensor, start: int) -> None:
        rows = torch.arange(start, start + scores.shape[1])
        self._merge()
        self._keep(self._keys(scores, rows))

    def _merge(self) -> None:
        if not self._pending:
            return
        query, keys = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        query, order = query.sort()
        counts = query.bincount(minlength=len(self._found))
        places = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
        padded = self._found.new_full((len(self._found), int(counts.max())), self._empty)
        padded[query, places] = keys[order]
        self._keep(padded)

    def _keep(self, keys: Tensor) -> None:
        joined = torch.cat([self._found, keys], 1)
        self._found = joined.topk(self.size, dim=1, sorted=False).values
        last = self._found.amin(1, keepdim=True) >> 32
        self._last = last.float() if self.whole_numbers else _ordered(last.int()).view(torch.float32)

    def _keys(self, scores: Tensor, rows: Tensor) -> Tensor:
        level = scores.long() if self.whole_numbers else _ordered(scores.view(torch.int32)).long()
        return (level << 32) | (_ROWS - rows)


def _ordered(bits: Tensor) -> Tensor:
    """Bits of float32 as int32 of the same order, and back; -0.0 comes before 0.0."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def query_blocks(count: int) -> Iterator[slice]:
    """Slices of queries that are searched for at once."""
    for start in range(0, count, QUERIES):
        yield slice(start, min(start + QUERIES, count))
