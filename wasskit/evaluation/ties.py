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

from wasskit.evaluation.rows import inner_products


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

    Only rows that share their first number with another one are looked at any further.
    """
    places = torch.arange(len(x), device=x.device)
    values, order = x[:, :1].flatten().sort()
    same = values[1:] == values[:-1]
    alone = torch.ones(len(x), dtype=torch.bool, device=x.device)
    alone[order[1:][same]] = alone[order[:-1][same]] = False
    rows = (~alone).nonzero()[:, 0]
    if len(rows) == 0:
        return Equals(places, rows)
    found = _equal_rows(x[rows])
    return Equals(places.index_copy(0, rows, rows[found.first]), rows[found.repeated])


def _equal_rows(x: Tensor) -> Equals:
    """`equal_rows` by a 64-bit hash of the bits of each row, which is compared with the first of its group.

    The rows that a collision has brought into a foreign group are sorted instead: the result is exact, whatever the
    hash.
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
    for rows, product in product_blocks(queries, gallery):
        similarities = equals.level(product)
        if own:
            similarities.diagonal(rows.start).fill_(-torch.inf)
        yield rows, *largest(similarities, k)


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of (N, M), falling, and their places; of equal ones the smaller places."""
    values, places = top_entries(x, min(k + 1, x.shape[1]))
    tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero()[:, 0]
    values, places, beyond = values[:, :k], places[:, :k], values[:, k:]
    if len(tied):
        cut = tied[(beyond[tied] == values[tied, -1:]).any(1)]
        if len(cut):
            last = values[cut, -1:]
            above, level = x[cut] > last, x[cut] == last
            chosen = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
            places[cut] = chosen.nonzero()[:, 1].view(-1, k)
        ascending = places[tied].sort(dim=1).values
        order = x[tied[:, None], ascending].sort(dim=1, descending=True, stable=True).indices
        places[tied] = ascending.gather(1, order)
    return values, places


def top_entries(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k, dim=1)``, in two stages where that is cheaper; which of equal entries is left open.

    The k largest entries of a row lie within the k groups with the largest maxima, so one pass for the maxima and two
    small top-k replace a top-k over the row. A group takes one entry of each of ``size`` stretches of the row: the
    maxima of many groups are found at once. ``x`` must be contiguous.
    """
    length = x.shape[1]
    size = int((length / k) ** 0.5)
    if size < 4:
        return x.topk(k, dim=1)
    groups = length // size
    whole = groups * size
    chosen = x[:, :whole].view(len(x), size, groups).amax(1).topk(k, dim=1).indices
    members = chosen[:, None, :] + groups * torch.arange(size, device=x.device)[:, None]
    rest = torch.arange(whole, length, device=x.device).expand(len(x), -1)
    members = torch.cat([members.flatten(1), rest], 1)
    values, places = x.gather(1, members).topk(k, dim=1)
    return values, members.gather(1, places)


def product_blocks(queries: Tensor, gallery: Tensor, share: int = 0, shares: int = 1) -> Iterator[tuple[slice, Tensor]]:
    """Inner products of queries (Q, D) with the gallery (M, D), some rows of queries at a time, in one buffer.

    Of several ``shares`` of the blocks that of one rank. Memory that is new in every block is mapped page by page,
    which costs a tenth of the product.
    """
    queries, gallery = queries.detach(), gallery.detach()
    size = min(rows_for(len(gallery), queries), max(len(queries), 1))
    buffer = queries.new_empty(size, len(gallery))
    for number, rows in enumerate(blocks(len(queries), size)):
        if number % shares != share:
            continue
        yield rows, inner_products(queries[rows], gallery, buffer[: rows.stop - rows.start])


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
