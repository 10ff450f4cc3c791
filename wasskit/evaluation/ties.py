"""Equal items of a gallery, and the k most similar items of a query where some are equally similar.

The last bit of an inner product depends on where in a matrix product it was computed: items that are equal, number by
number, may come out with different similarities to one query. They are therefore found by their numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Equals:
    """Which rows of a gallery (M, D) equal another one."""

    first: Tensor  # (M,) first row that equals each; its own index where none comes before it
    repeated: Tensor  # (R,) ascending: the rows that equal some other one

    @cached_property
    def _places(self) -> list[int]:
        return self.repeated.tolist()

    def within(self, rows: slice) -> Tensor:
        """The repeated rows among these, ascending."""
        return self.repeated[bisect_left(self._places, rows.start) : bisect_left(self._places, rows.stop)]

    def level(self, similarities: Tensor) -> Tensor:
        """``similarities`` (Q, M), changed in place to be the same to the bit for equal items."""
        if len(self.repeated):
            similarities[:, self.repeated] = similarities[:, self.first[self.repeated]]
        return similarities


def equal_rows(x: Tensor) -> Equals:
    """The equal rows of finite numbers (M, D); -0.0 equals 0.0.

    Rows are grouped by a 64-bit hash of their bits and compared with the first of their group. The rows that a
    collision has brought into a foreign group are sorted instead: the result is exact, whatever the hash.
    """
    bits = (x + 0.0).contiguous().view(torch.int32)  # + 0.0 makes 0.0 of -0.0
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(torch.int64)
    factors = torch.randint(limits.min, limits.max, (bits.shape[1],), generator=generator).to(x.device)
    # Integers wrap around: the sum is the same in any order.
    hashes = torch.cat([(part.long() * factors).sum(1) for part in bits.split(rows_for(bits.shape[1], factors))])
    first = _first_of_group(hashes.unique(return_inverse=True)[1])
    places = torch.arange(len(x), device=x.device)
    later = (first != places).nonzero()[:, 0]
    foreign = later[torch.cat([(x[a] != x[first[a]]).any(1) for a in later.split(rows_for(x.shape[1], x))])]
    if len(foreign):
        group = x[foreign].unique(dim=0, return_inverse=True)[1]
        first[foreign] = foreign[_first_of_group(group)]
    shared = first.bincount(minlength=len(x)) > 1
    return Equals(first, shared[first].nonzero()[:, 0])


def _first_of_group(group: Tensor) -> Tensor:
    """The smallest index that has the group of each: (M,) to (M,)."""
    places = torch.arange(len(group), device=group.device)
    smallest = torch.full_like(group, len(group)).scatter_reduce(0, group, places, "amin")
    return smallest[group]


def nearest_blocks(
    queries: Tensor, gallery: Tensor, k: int, *, own: bool = False
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The ``k`` gallery items with the largest inner product with each query, some rows of queries at a time.

    ``queries`` (Q, D), ``gallery`` (M, D) of one dtype, k at most M. Yields the rows, their similarities (rows, k),
    falling, and the indices (rows, k). Equally similar items stand in the order of their indices, also at the k-th
    place, and equal items are equally similar. ``own``: the queries are the gallery, and none finds itself (k < M).
    """
    equals = equal_rows(gallery)
    for rows in blocks(len(queries), rows_for(len(gallery), queries)):
        similarities = equals.level(queries[rows] @ gallery.T)
        if own:
            similarities.diagonal(rows.start).fill_(-torch.inf)
        yield rows, *largest(similarities, k)


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of (N, M), falling, and their places; of equal ones the smaller places."""
    values, places = top_entries(x, min(k + 1, x.shape[1]))
    if values.shape[1] > k:
        cut = values[:, k] == values[:, k - 1]
        values, places = values[:, :k], places[:, :k]
        if bool(cut.any()):
            last = values[cut, -1:]
            above, level = x[cut] > last, x[cut] == last
            chosen = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
            places[cut] = chosen.nonzero()[:, 1].view(-1, k)
    places = places.sort(dim=1).values
    values, order = x.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def top_entries(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k, dim=1)``, in two stages where that is cheaper; which of equal entries is left open.

    The k largest entries of a row lie within the k blocks with the largest maxima, so one pass for the maxima
    and two small top-k replace a top-k over the row. ``x`` must be contiguous.
    """
    length = x.shape[1]
    block = int((length / k) ** 0.5)
    if block < 4:
        return x.topk(k, dim=1)
    whole = length // block * block
    parts = x[:, :whole].view(len(x), -1, block)
    chosen = parts.amax(2).topk(k, dim=1).indices
    candidates = parts.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)
    values, places = torch.cat([candidates, x[:, whole:]], 1).topk(k, dim=1)
    within = places.clamp(max=k * block - 1)
    indices = chosen.gather(1, within // block) * block + within % block
    return values, torch.where(places < k * block, indices, places - k * block + whole)


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``length``."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


BUDGET = 64 * 2**20
"""Bytes of a block of similarities on a CPU; an accelerator takes 16 times as many."""


def rows_for(columns: int, like: Tensor) -> int:
    """Rows of a (rows, columns) block with the dtype of ``like``: what ``BUDGET`` holds, at most 4096."""
    budget = BUDGET * (1 if like.device.type == "cpu" else 16)
    return max(1, min(4096, budget // (columns * like.element_size())))
