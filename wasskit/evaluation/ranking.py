"""The rankings behind the metrics of `wasskit.evaluation.retrieval`: counts of negatives, tile by tile, or sorting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import rank, world_size
from wasskit.errors import UserError
from wasskit.evaluation.accuracy import are_integers
from wasskit.evaluation.rows import all_finite, inner_products
from wasskit.evaluation.ties import Equals, blocks, equal_rows, product_blocks, top_entries

Similarity = Literal["cosine", "dot", "euclidean"]
Ties = Literal["pessimistic", "optimistic"]
Lone = Literal["zero", "skip"]

UNRANKED = torch.iinfo(torch.int64).max
"""Rank of a query that has no positive in the gallery."""


@dataclass(frozen=True)
class Sets:
    """Queries and gallery, both sorted by label: the positives of a query are then one range of columns."""

    queries: Tensor  # (Q, D) factors of the similarity, see similarity_factors
    gallery: Tensor  # (M, D)
    query_labels: Tensor  # (Q,) ascending
    gallery_labels: Tensor  # (M,) ascending
    first: Tensor  # (Q,) first column of the query's label
    last: Tensor  # (Q,) one past the last
    order: Tensor  # (Q,) original index of each sorted query
    equals: Equals  # gallery items with the same factors
    own: bool  # the queries are their own gallery
    symmetric: bool  # and similarity(i, j) = similarity(j, i)

    @property
    def positives(self) -> Tensor:
        """Number of positives of each query, (Q,)."""
        return self.last - self.first - int(self.own)

    def columns(self, rows: slice) -> slice:
        """Columns that hold every positive of these rows."""
        return slice(int(self.first[rows.start]), int(self.last[rows.stop - 1]))

    def same_label(self, rows: slice, columns: slice) -> Tensor:
        return self.query_labels[rows, None] == self.gallery_labels[None, columns]

    def positive_similarities(self, rows: slice, similarities: Tensor) -> Tensor:
        """``similarities`` over ``columns(rows)`` with everything but the positives set to -inf."""
        columns = self.columns(rows)
        positives = similarities.masked_fill(~self.same_label(rows, columns), -torch.inf)
        if self.own:
            positives.diagonal(rows.start - columns.start).fill_(-torch.inf)
        return positives


TILE, WIDE_TILE = (512, 1024), (8192, 8192)
"""Queries and gallery items of one tile of similarities, on a CPU and on an accelerator."""

COUNTED = 32
"""Up to so many positives per query, their ranks are counts; beyond, finding the largest negatives is cheaper."""


def best_ranks(sets: Sets, ties: Ties, sharded: bool) -> Tensor:
    """Rank of the best positive of each sorted query: one plus a count of larger similarities."""
    before = _negatives_before(sets, *_best_positives(sets, 1), None, ties, sharded)
    return torch.where(sets.positives > 0, before[:, 0] + 1, UNRANKED)


def _best_positives(sets: Sets, number: int) -> tuple[Tensor, Tensor]:
    """Similarities and gallery columns of each query's most similar positives, falling, (Q, number) twice; -inf
    and some column where it has fewer.
    """
    best = sets.queries.new_full((len(sets.queries), number), -torch.inf)
    which = torch.zeros_like(best, dtype=torch.int64)
    for rows in blocks(len(best), (TILE if sets.queries.device.type == "cpu" else WIDE_TILE)[0]):
        columns = sets.columns(rows)
        found = min(number, columns.stop - columns.start)
        if found > 0:
            similarities = inner_products(sets.queries[rows], sets.gallery[columns])
            top = sets.positive_similarities(rows, similarities).topk(found, dim=1)
            best[rows, :found], which[rows, :found] = top.values, top.indices + columns.start
    return best, which


def _negatives_before(
    sets: Sets, thresholds: Tensor, which: Tensor, enough: Tensor | None, ties: Ties, sharded: bool
) -> Tensor:
    """How many negatives of each query reach each of its thresholds, the similarities of the gallery's columns
    ``which``: (Q, J) and (Q, J) to (Q, J) int64.

    Counts above ``enough`` (Q, J) need not be whole: a threshold that has passed it in every row of a tile is not
    counted there any further. The similarities are formed tile by tile, each tile small enough to stay in the cache
    while it is compared. Where they are symmetric a tile above the diagonal serves its rows and its columns, which
    halves the matrix product.
    """
    height, width = TILE if sets.queries.device.type == "cpu" else WIDE_TILE
    if sets.symmetric:
        height = width
    share, shares = shard_of(sharded)
    levels = thresholds.T.contiguous()
    points = sets.equals.first[which].T.contiguous()
    before = torch.zeros_like(levels, dtype=torch.int64)
    most = None if enough is None else enough.T
    query_ends, gallery_ends = sets.query_labels.tolist(), sets.gallery_labels.tolist()
    tile = 0
    for rows in blocks(len(sets.queries), height):
        for columns in blocks(len(sets.gallery), width):
            if sets.symmetric and columns.start < rows.start:
                continue
            tile += 1
            if tile % shares != share:
                continue
            similarities = inner_products(sets.queries[rows], sets.gallery[columns])
            if (
                query_ends[rows.start] <= gallery_ends[columns.stop - 1]
                and gallery_ends[columns.start] <= query_ends[rows.stop - 1]
            ):
                similarities.masked_fill_(sets.same_label(rows, columns), -torch.inf)
            count = _Counter(similarities, sets.equals, ties)
            sides = [(1, rows, columns)]
            if sets.symmetric and columns.start > rows.start:
                sides.append((0, columns, rows))
            for dim, of, items in sides:
                for j in _open(before, most, of):
                    before[j, of] += count(dim, items, levels[j, of], points[j, of])
    return (reduce_sum(before) if shares > 1 else before).T


def _open(before: Tensor, most: Tensor | None, rows: slice) -> list[int]:
    """The thresholds that some of these rows must still count."""
    if most is None:
        return list(range(len(before)))
    return (before[:, rows] <= most[:, rows]).any(1).nonzero()[:, 0].tolist()


class _Counter:
    """Counts the items of a tile of ``similarities`` that reach a level; -inf marks those that do not count."""

    def __init__(self, similarities: Tensor, equals: Equals, ties: Ties) -> None:
        self.similarities, self.equals = similarities, equals
        self.pessimistic = ties == "pessimistic"
        self.reached = torch.empty_like(similarities)

    def __call__(self, dim: int, items: slice, level: Tensor, point: Tensor) -> Tensor:
        """Number (rows,) of the gallery's ``items``, along ``dim``, that reach the level (rows,) of each query.

        ``point`` (rows,) is the item that has this similarity: one that equals it ties, however it was rounded.
        """
        # Counts of one tile are below 2^24, hence exact as floats, and a float comparison sums fastest.
        reach = torch.ge if self.pessimistic else torch.gt
        reach(self.similarities, level.unsqueeze(dim), out=self.reached)
        repeated = self.equals.within(items)
        if len(repeated):
            own = repeated - items.start
            equal = self.equals.first[repeated].unsqueeze(1 - dim) == point.unsqueeze(dim)
            equal &= self.similarities.index_select(dim, own) > -torch.inf
            counted = self.reached.index_select(dim, own).masked_fill_(equal, float(self.pessimistic))
            self.reached.index_copy_(dim, own, counted)
        return self.reached.sum(dim).long()


@dataclass(frozen=True)
class Rankings:
    ranks: Tensor  # (Q,) rank of the best positive, in sorted order
    precisions: Tensor  # float64: one mAP@K per K, then mAP@R if asked for

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.ranks, self.precisions))


def average_precisions(
    sets: Sets,
    map_k: Sequence[int],
    ties: Ties,
    lone: Lone,
    sharded: bool,
    *,
    at_r: bool = True,
    full_ranks: bool = False,
) -> Rankings:
    """mAP at each K of ``map_k`` and at R, from the positives and as many negatives as can matter."""
    counts = sets.positives
    most = int(counts.max())
    needed = min(most, max(most if at_r else 0, *map_k, 1))
    if needed <= COUNTED:
        place = torch.arange(1, max(needed, 1) + 1, device=counts.device)
        # The j-th positive matters up to rank K; of the first one every rank is asked for.
        enough = torch.clamp(counts if at_r else counts * 0, min=max(map_k, default=0))[:, None] - place
        enough[:, 0] = len(sets.gallery)
        enough = enough.masked_fill(place > counts[:, None], -1)
        before = _negatives_before(sets, *_best_positives(sets, len(place)), enough, ties, sharded)
        ranks, total = before[:, 0] + 1, _sum_of_precisions(before, counts, map_k, at_r)
    else:
        ranks, total = _ranked_by_sorting(sets, map_k, ties, sharded, at_r, full_ranks)
    answered = counts > 0
    ranks = torch.where(answered, ranks, UNRANKED)
    return Rankings(ranks, total / (answered.sum() if lone == "skip" else len(counts)))


def _ranked_by_sorting(
    sets: Sets, map_k: Sequence[int], ties: Ties, sharded: bool, at_r: bool, full_ranks: bool
) -> tuple[Tensor, Tensor]:
    """Ranks of the best positives (if ``full_ranks``) and sums of average precisions, block of rows by block."""
    larger = torch.ge if ties == "pessimistic" else torch.gt
    share, shares = shard_of(sharded)
    device = sets.queries.device
    ranks = torch.zeros(len(sets.queries), dtype=torch.int64, device=device)
    total = torch.zeros(len(map_k) + at_r, dtype=torch.float64, device=device)
    counts = sets.positives
    for rows, product in product_blocks(sets.queries, sets.gallery, share, shares):
        columns = sets.columns(rows)
        similarities = sets.equals.level(product)
        positives = sets.positive_similarities(rows, similarities[:, columns])
        # From here on the negatives alone.
        similarities[:, columns].masked_fill_(sets.same_label(rows, columns), -torch.inf)
        most = int(counts[rows].max())
        if most == 0:
            continue
        limit = max(most if at_r else 0, *map_k, 1)
        positives = positives.topk(min(most, limit), dim=1).values
        if full_ranks:
            ranks[rows] = larger(similarities, positives[:, :1]).sum(1) + 1
        negatives = top_entries(similarities, min(limit, similarities.shape[1]))[0]
        # Ascending in -similarity; "right" counts the equal ones too.
        before = torch.searchsorted(-negatives, -positives, right=ties == "pessimistic")
        total += _sum_of_precisions(before, counts[rows], map_k, at_r)
    if shares > 1:
        ranks, total = reduce_sum(ranks), reduce_sum(total)
    return ranks, total


def _sum_of_precisions(before: Tensor, counts: Tensor, map_k: Sequence[int], at_r: bool) -> Tensor:
    """Sums over queries of AP@K for each K and of AP@R: the j-th positive follows ``before[:, j - 1]`` negatives."""
    place = torch.arange(1, before.shape[1] + 1, device=before.device)
    rank = before + place
    precision = place / rank.double()
    relevant = counts[:, None]
    limits = [torch.full_like(relevant, k) for k in map_k] + ([relevant] if at_r else [])
    sums = [
        (
            torch.where((place <= relevant) & (rank <= k), precision, 0.0).sum(1, keepdim=True)
            / torch.minimum(relevant, k).clamp(min=1)
        ).sum()
        for k in limits
    ]
    return torch.stack(sums)


def faiss_rankings(sets: Sets, recall: Sequence[int], map_k: Sequence[int], at_r: bool, lone: Lone) -> Rankings:
    """The same rankings from the neighbour lists of a flat faiss index."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "the faiss backend needs the package faiss: install wasskit[faiss], or leave the backend at exact"
        ) from None
    counts = sets.positives
    limit = min(max(*recall, *map_k, int(counts.max()) if at_r else 1, 1) + sets.own, len(sets.gallery))
    index = faiss.IndexFlatIP(sets.gallery.shape[1])
    index.add(sets.gallery.float().cpu().numpy())
    found = torch.from_numpy(index.search(sets.queries.float().cpu().numpy(), limit)[1]).to(counts.device)
    hit = sets.gallery_labels[found] == sets.query_labels[:, None]
    if sets.own:
        # Drop the query itself by its index; where rounding pushed it off the list, drop the last entry instead.
        itself = found == torch.arange(len(found), device=found.device)[:, None]
        itself[:, -1] |= ~itself.any(1)
        hit = hit[~itself].view(len(hit), -1)
    place = torch.arange(1, hit.shape[1] + 1, device=hit.device)
    first = torch.where(hit, place, UNRANKED).amin(1)
    # A best positive beyond the list has some finite rank: larger than any that was asked for.
    ranks = torch.where((counts > 0) & (first == UNRANKED), hit.shape[1] + 1, first)
    precision = torch.where(hit, hit.cumsum(1) / place.double(), 0.0)
    limits = [torch.full_like(counts, k) for k in map_k] + ([counts] if at_r else [])
    totals = [
        (torch.where(place <= k[:, None], precision, 0.0).sum(1) / torch.minimum(counts, k).clamp(min=1)).sum()
        for k in limits
    ]
    number = (counts > 0).sum() if lone == "skip" else len(counts)
    return Rankings(ranks, torch.stack(totals) / number if totals else precision.new_empty(0))


def prepare(
    embeddings: Tensor, labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None, metric: Similarity
) -> Sets:
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels go together: give both or neither")
    for name, x, y in (("embeddings", embeddings, labels), ("gallery", gallery, gallery_labels)):
        if x is not None and y is not None and (x.ndim < 1 or y.shape != x.shape[:1] or not are_integers(y)):
            raise ValueError(
                f"labels of the {name} must be {len(x) if x.ndim else 0} integers, one per row, "
                f"not {y.dtype} of shape {tuple(y.shape)}"
            )
    own = gallery is None
    order = labels.to(embeddings.device).argsort(stable=True)
    query_labels = labels.to(embeddings.device)[order]
    x = embeddings[order]
    if gallery is None or gallery_labels is None:
        y, item_labels = x, query_labels
    else:
        item_order = gallery_labels.to(gallery.device).argsort(stable=True)
        y, item_labels = gallery[item_order], gallery_labels[item_order].to(query_labels)
    queries, items = similarity_factors(x, y, metric)
    first = torch.searchsorted(item_labels, query_labels)
    last = torch.searchsorted(item_labels, query_labels, right=True)
    symmetric = own and metric != "euclidean"
    equals = equal_rows(items)
    return Sets(queries, items, query_labels, item_labels, first, last, order, equals, own, symmetric)


def similarity_factors(x: Tensor, y: Tensor, metric: Similarity) -> tuple[Tensor, Tensor]:
    """Factors whose product ``x @ y.T`` ranks as ``metric`` does, most similar largest.

    Euclidean distance is ranked by <x, y> - |y|^2 / 2, one more coordinate, about the gallery's mean so that
    a common offset costs no digits. The mean is rounded to a power of two near the spread: differences of numbers
    with few digits, integers say, stay exact, and so do their ties.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"queries (N, D) and gallery (M, D) do not match: {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) == 0 or len(y) == 0:
        raise ValueError("retrieval needs at least one query and one gallery item")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(f"embeddings must be floating point, not {x.dtype} and {y.dtype}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    same = y is x
    x = x.detach().to(dtype)
    y = x if same else y.detach().to(device=x.device, dtype=dtype)
    if not (all_finite(x) and (same or all_finite(y))):
        raise ValueError("embeddings contain NaN or infinite values: no ranking is defined")
    if metric == "cosine":
        x = torch.nn.functional.normalize(x, dim=1)
        return x, x if same else torch.nn.functional.normalize(y, dim=1)
    if metric == "dot":
        return x, y
    if metric == "euclidean":
        centre = y.mean(0)
        grid = torch.ldexp(torch.ones_like(centre[0]), (y - centre).abs().max().frexp().exponent - 1)
        centre = torch.where(grid > 0, (centre / grid).round() * grid, y[0])
        x, y = x - centre, y - centre
        one = x.new_ones(len(x), 1)
        return torch.cat([x, one], 1), torch.cat([y, -y.square().sum(1, keepdim=True) / 2], 1)
    raise ValueError(f"unknown metric {metric!r}: cosine, dot or euclidean")


def shard_of(sharded: bool) -> tuple[int, int]:
    """This rank's number and how many ranks share the work; 0 of 1 where it is not shared."""
    if not sharded:
        return 0, 1
    return rank(), world_size()
