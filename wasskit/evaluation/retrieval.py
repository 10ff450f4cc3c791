"""Retrieval: recall@K, precision@1, mAP@R and mAP@K, exact and without an N x N matrix.

Every query ranks a gallery by similarity. *Positives* are the gallery items of the query's class, *negatives*
all others. Where a set is its own gallery (no gallery given), a query never meets itself: it is left out by
its index, not by its rank, so that an exact duplicate of an image still counts.

With j = 1, 2, ... numbering the positives of a query by falling similarity and R their number:

    rank_j   = j + #{negatives at least as similar as the j-th positive}
    recall@K = 1 if rank_1 <= K, else 0                        (so precision@1 = recall@1)
    mAP@K    = 1 / min(R, K) * sum_j [rank_j <= K] j / rank_j
    mAP@R    = mAP@K at K = R        (Musgrave, Belongie & Lim, "A Metric Learning Reality Check", 2020)

averaged over the queries. Recall needs no sorting: rank_1 is a count of larger similarities.

Ties. With ``ties="pessimistic"`` (default) a negative exactly as similar as a positive is ranked before it,
so an embedding that has collapsed to one point scores 0 and not 1. ``ties="optimistic"`` ranks it behind,
which is what published In-Shop evaluations do. Gallery items that are equal, number by number (cosines: after
normalisation), tie exactly for every query: they are recognised by their numbers, not by their similarities, whose
last bit depends on where in a matrix product they were computed. Other similarities are compared as computed in the
dtype of the embeddings (half precision is raised to float32); float64 embeddings are ranked in float64.

A query without a positive in the gallery can never be answered. It counts as 0, as published; ``lone="skip"``
leaves such queries out of the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.accuracy import are_integers

Metric = Literal["cosine", "dot", "euclidean"]
Ties = Literal["pessimistic", "optimistic"]
Lone = Literal["zero", "skip"]
Backend = Literal["exact", "faiss"]

UNRANKED = torch.iinfo(torch.int64).max
"""Rank of a query that has no positive in the gallery."""


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    k: int | Sequence[int] = 1,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
) -> Tensor:
    """Share of queries with at least one positive among their ``k`` nearest gallery items.

    ``embeddings`` (N, D) floating point and ``labels`` (N,) integer are the queries, and the gallery as well
    unless ``gallery`` (M, D) and ``gallery_labels`` (M,) are given. ``metric``: "cosine" (rows are normalised
    here), "dot", or "euclidean" (nearest first). With ``sharded`` the work is divided over the ranks of the
    process group; all of them must call with the same tensors and all get the same result.

    Returns float64: a scalar for one ``k``, else of shape (len(k),). Raises ``ValueError`` for mismatched
    shapes, an empty set, ``k`` < 1 or embeddings that are not finite.
    """
    _check_choices(ties, lone)
    several = isinstance(k, Sequence)
    wanted = _positive_numbers("k", k if isinstance(k, Sequence) else (k,))
    if not wanted:
        raise ValueError("k names no rank: give at least one number")
    ranks = best_positive_rank(
        embeddings,
        labels,
        gallery=gallery,
        gallery_labels=gallery_labels,
        metric=metric,
        ties=ties,
        sharded=sharded,
    )
    if lone == "skip":
        ranks = ranks[ranks != UNRANKED]
    # One comparison per k rather than one (N, len(k)) table: k is short, N is not.
    recalls = torch.stack([(ranks <= limit).double().mean() for limit in wanted])
    return recalls if several else recalls[0]


def precision_at_1(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
) -> Tensor:
    """Share of queries whose nearest gallery item is a positive, float64 scalar; equal to recall@1."""
    return recall_at_k(
        embeddings,
        labels,
        1,
        gallery=gallery,
        gallery_labels=gallery_labels,
        metric=metric,
        ties=ties,
        lone=lone,
        sharded=sharded,
    )


def map_at_r(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
) -> Tensor:
    """Mean average precision over the first R ranks, R the query's own number of positives; float64 scalar.

    Arguments as for :func:`recall_at_k`.
    """
    _check_choices(ties, lone)
    sets = _prepare(embeddings, labels, gallery, gallery_labels, metric)
    return _average_precisions(sets, (), ties, lone, sharded).precisions[-1]


def map_at_k(
    embeddings: Tensor,
    labels: Tensor,
    k: int,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
) -> Tensor:
    """Mean average precision over the first ``k`` ranks, normalised by min(R, k); float64 scalar.

    Arguments as for :func:`recall_at_k`.
    """
    _check_choices(ties, lone)
    sets = _prepare(embeddings, labels, gallery, gallery_labels, metric)
    return _average_precisions(
        sets, _positive_numbers("k", (k,)), ties, lone, sharded, at_r=False
    ).precisions[0]


def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    recall: Sequence[int] = (1, 2, 4, 8),
    map_k: Sequence[int] = (),
    map_r: bool = True,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
    backend: Backend = "exact",
) -> dict[str, float]:
    """Several measures from one pass over the similarities.

    Keys: ``recall@K`` for each K of ``recall``, ``precision@1``, ``map@K`` for each K of ``map_k``,
    ``map@r``. Other arguments as for :func:`recall_at_k`. ``backend="faiss"`` ranks with a flat faiss index
    instead (the extra ``faiss``); equal similarities then stand in the order in which faiss returns them.
    """
    _check_choices(ties, lone)
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be exact or faiss, not {backend!r}")
    recall = _positive_numbers("recall", recall)
    map_k = _positive_numbers("map_k", map_k)
    sets = _prepare(embeddings, labels, gallery, gallery_labels, metric)
    if backend == "faiss":
        ranks, precisions = _faiss_measures(sets, recall, map_k, map_r, lone)
    elif map_k or map_r:
        ranks, precisions = _average_precisions(
            sets, map_k, ties, lone, sharded, at_r=map_r, full_ranks=bool(recall)
        )
    else:
        ranks, precisions = _best_ranks(sets, ties, sharded), embeddings.new_empty(0)
    if lone == "skip":
        ranks = ranks[ranks != UNRANKED]
    values = {f"recall@{limit}": float((ranks <= limit).double().mean()) for limit in recall}
    if recall:
        values["precision@1"] = float((ranks <= 1).double().mean())
    names = [f"map@{limit}" for limit in map_k] + (["map@r"] if map_r else [])
    return values | dict(zip(names, precisions.tolist(), strict=True))


def best_positive_rank(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    sharded: bool = False,
) -> Tensor:
    """Rank (1 = nearest) of each query's most similar positive, int64 (N,); ``UNRANKED`` where there is none.

    Arguments as for :func:`recall_at_k`.
    """
    _check_choices(ties)
    sets = _prepare(embeddings, labels, gallery, gallery_labels, metric)
    ranks = torch.empty_like(sets.order)
    ranks[sets.order] = _best_ranks(sets, ties, sharded)
    return ranks


def nearest(
    queries: Tensor, k: int, *, gallery: Tensor | None = None, metric: Metric = "cosine"
) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar gallery items of each query: similarities and indices, both (N, min(k, items)),
    best first.

    Without ``gallery`` the queries are their own gallery and none finds itself. Similarity is the cosine, the
    inner product, or minus the Euclidean distance.
    """
    (k,) = _positive_numbers("k", (k,))
    own = gallery is None
    x, y = _similarity_factors(queries, queries if gallery is None else gallery, metric)
    k = min(k, len(y) - own)
    if k < 1:
        raise ValueError("there is no other item to retrieve: the set has one item only")
    values, indices = [], []
    twins = _first_equals(y)
    for rows in _blocks(len(x), _rows_for(len(y), x)):
        similarities = _all_similarities(x[rows], y, twins)
        if own:
            similarities.diagonal(rows.start).fill_(-torch.inf)
        best, which = _largest(similarities, k)
        if metric == "euclidean":
            # The factors give <x, y> - |y|^2 / 2, which ranks as the distance does but is not yet one.
            squared = x[rows, :-1].square().sum(1, keepdim=True) - 2 * best
            best = squared.clamp(min=0).sqrt().neg()
        values.append(best)
        indices.append(which)
    return torch.cat(values), torch.cat(indices)


# --- the two passes ---


@dataclass(frozen=True)
class _Sets:
    """Queries and gallery, both sorted by label: the positives of a query are then one range of columns."""

    queries: Tensor  # (Q, D) factors of the similarity, see _similarity_factors
    gallery: Tensor  # (M, D)
    query_labels: Tensor  # (Q,) ascending
    gallery_labels: Tensor  # (M,) ascending
    first: Tensor  # (Q,) first column of the query's label
    last: Tensor  # (Q,) one past the last
    order: Tensor  # (Q,) original index of each sorted query
    twins: Tensor | None  # (M,) first gallery item with the same factors, None where all differ
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
        """``similarities`` over ``columns(rows)`` with everything that is no positive set to -inf."""
        columns = self.columns(rows)
        positives = similarities.masked_fill(~self.same_label(rows, columns), -torch.inf)
        if self.own:
            positives.diagonal(rows.start - columns.start).fill_(-torch.inf)
        return positives


COUNTED = 32
"""Up to so many positives per query, their ranks are counts; beyond, finding the largest negatives is cheaper."""


def _best_ranks(sets: _Sets, ties: Ties, sharded: bool) -> Tensor:
    """Rank of the best positive of each sorted query: one plus a count of larger similarities."""
    before = _negatives_before(sets, *_best_positives(sets, 1), ties, sharded)
    return torch.where(sets.positives > 0, before[:, 0] + 1, UNRANKED)


def _best_positives(sets: _Sets, number: int) -> tuple[Tensor, Tensor]:
    """Similarities and gallery columns of each query's most similar positives, falling, (Q, number) twice; -inf
    and some column where it has fewer.
    """
    best = sets.queries.new_full((len(sets.queries), number), -torch.inf)
    which = torch.zeros_like(best, dtype=torch.int64)
    for rows in _blocks(len(best), 512 if sets.queries.device.type == "cpu" else 8192):
        columns = sets.columns(rows)
        found = min(number, columns.stop - columns.start)
        if found > 0:
            similarities = sets.queries[rows] @ sets.gallery[columns].T
            top = sets.positive_similarities(rows, similarities).topk(found, dim=1)
            best[rows, :found], which[rows, :found] = top.values, top.indices + columns.start
    return best, which


def _negatives_before(sets: _Sets, thresholds: Tensor, which: Tensor, ties: Ties, sharded: bool) -> Tensor:
    """How many negatives of each query reach each of its thresholds, the similarities of the gallery's columns
    ``which``: (Q, J) and (Q, J) to (Q, J) int64.

    The similarities are formed tile by tile, each tile small enough to stay in the cache while it is
    compared. Where they are symmetric a tile above the diagonal serves its rows and its columns, which halves
    the matrix product.
    """
    height, width = (512, 1024) if sets.queries.device.type == "cpu" else (8192, 8192)
    if sets.symmetric:
        height = width
    share, shares = _shard(sharded)
    levels = thresholds.T.contiguous()
    twins = sets.twins
    points = [None] * len(levels) if twins is None else list(twins[which].T.contiguous())

    def count(similarities: Tensor, dim: int, level: Tensor, point: Tensor | None, items: slice) -> Tensor:
        # The counts of one tile are below 2^24, hence exact as floats, and a float comparison sums fastest.
        level = level.unsqueeze(dim)
        (torch.ge if ties == "pessimistic" else torch.gt)(similarities, level, out=counted)
        if twins is not None and point is not None:
            equal = twins[items].unsqueeze(1 - dim) == point.unsqueeze(dim)
            equal &= similarities > -torch.inf
            counted.masked_fill_(equal, float(ties == "pessimistic"))
        return counted.sum(dim).long()

    before = torch.zeros_like(levels, dtype=torch.int64)
    query_ends, gallery_ends = sets.query_labels.tolist(), sets.gallery_labels.tolist()
    tile = 0
    for rows in _blocks(len(sets.queries), height):
        for columns in _blocks(len(sets.gallery), width):
            if sets.symmetric and columns.start < rows.start:
                continue
            tile += 1
            if tile % shares != share:
                continue
            similarities = sets.queries[rows] @ sets.gallery[columns].T
            if (
                query_ends[rows.start] <= gallery_ends[columns.stop - 1]
                and gallery_ends[columns.start] <= query_ends[rows.stop - 1]
            ):
                similarities.masked_fill_(sets.same_label(rows, columns), -torch.inf)
            counted = torch.empty_like(similarities)
            for level, point, total in zip(levels, points, before, strict=True):
                near = None if point is None else point[rows]
                total[rows] += count(similarities, 1, level[rows], near, columns)
                if sets.symmetric and columns.start > rows.start:
                    near = None if point is None else point[columns]
                    total[columns] += count(similarities, 0, level[columns], near, rows)
    return (_sum_over_ranks(before) if shares > 1 else before).T


@dataclass(frozen=True)
class _Measures:
    ranks: Tensor  # (Q,) rank of the best positive, in sorted order
    precisions: Tensor  # float64: one mAP@K per K, then mAP@R if asked for

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.ranks, self.precisions))


def _average_precisions(
    sets: _Sets,
    map_k: Sequence[int],
    ties: Ties,
    lone: Lone,
    sharded: bool,
    *,
    at_r: bool = True,
    full_ranks: bool = False,
) -> _Measures:
    """mAP at each K of ``map_k`` and at R, from the positives and as many negatives as can matter."""
    counts = sets.positives
    most = int(counts.max())
    needed = min(most, max(most if at_r else 0, *map_k, 1))
    if needed <= COUNTED:
        before = _negatives_before(sets, *_best_positives(sets, max(needed, 1)), ties, sharded)
        ranks, total = before[:, 0] + 1, _sum_of_precisions(before, counts, map_k, at_r)
    else:
        ranks, total = _ranked_by_sorting(sets, map_k, ties, sharded, at_r, full_ranks)
    answered = counts > 0
    ranks = torch.where(answered, ranks, UNRANKED)
    return _Measures(ranks, total / (answered.sum() if lone == "skip" else len(counts)))


def _ranked_by_sorting(
    sets: _Sets, map_k: Sequence[int], ties: Ties, sharded: bool, at_r: bool, full_ranks: bool
) -> tuple[Tensor, Tensor]:
    """Ranks of the best positives (if ``full_ranks``) and sums of average precisions, block of rows by block."""
    larger = torch.ge if ties == "pessimistic" else torch.gt
    share, shares = _shard(sharded)
    device = sets.queries.device
    ranks = torch.zeros(len(sets.queries), dtype=torch.int64, device=device)
    total = torch.zeros(len(map_k) + at_r, dtype=torch.float64, device=device)
    counts = sets.positives
    for number, rows in enumerate(_blocks(len(sets.queries), _rows_for(len(sets.gallery), sets.queries))):
        if number % shares != share:
            continue
        columns = sets.columns(rows)
        similarities = _all_similarities(sets.queries[rows], sets.gallery, sets.twins)
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
        negatives = _largest(similarities, min(limit, similarities.shape[1]))[0]
        # Ascending in -similarity; "right" counts the equal ones too.
        before = torch.searchsorted(-negatives, -positives, right=ties == "pessimistic")
        total += _sum_of_precisions(before, counts[rows], map_k, at_r)
    if shares > 1:
        ranks, total = _sum_over_ranks(ranks), _sum_over_ranks(total)
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


def _faiss_measures(
    sets: _Sets, recall: Sequence[int], map_k: Sequence[int], at_r: bool, lone: Lone
) -> _Measures:
    """The same measures from the neighbour lists of a flat faiss index."""
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
        # Drop the query itself by its index; where rounding pushed it off the list, drop the last entry
        # instead.
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
        (
            torch.where(place <= k[:, None], precision, 0.0).sum(1) / torch.minimum(counts, k).clamp(min=1)
        ).sum()
        for k in limits
    ]
    number = (counts > 0).sum() if lone == "skip" else len(counts)
    return _Measures(ranks, torch.stack(totals) / number if totals else precision.new_empty(0))


# --- pieces ---


def _prepare(
    embeddings: Tensor, labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None, metric: Metric
) -> _Sets:
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
    queries, items = _similarity_factors(x, y, metric)
    first = torch.searchsorted(item_labels, query_labels)
    last = torch.searchsorted(item_labels, query_labels, right=True)
    symmetric = own and metric != "euclidean"
    twins = _first_equals(items)
    return _Sets(queries, items, query_labels, item_labels, first, last, order, twins, own, symmetric)


def _first_equals(x: Tensor) -> Tensor | None:
    """Index of the first row of (M, D) that equals each row, (M,), or None where no two rows are equal.

    Rows are told apart by a 64-bit hash of their bits, then compared with the first of their hash; whatever a collision
    has joined stands for itself.
    """
    bits = (x + 0.0).view({4: torch.int32, 8: torch.int64}[x.element_size()])  # + 0.0: -0.0 equals 0.0
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(torch.int64)
    factors = torch.randint(limits.min, limits.max, (x.shape[1],), generator=generator).to(x.device)
    # Integers wrap around: the sum is the same in any order.
    hashes = torch.cat(
        [(rows.long() * factors).sum(1) for rows in bits.split(_rows_for(x.shape[1], factors))]
    )
    different, group = hashes.unique(return_inverse=True)
    if len(different) == len(x):
        return None
    places = torch.arange(len(x), device=x.device)
    first = torch.full_like(different, len(x)).scatter_reduce(0, group, places, "amin")[group]
    equal = torch.cat(
        [(x[a] == x[b]).all(1) for a, b in zip(first.split(4096), places.split(4096), strict=True)]
    )
    return torch.where(equal, first, places)


def _all_similarities(queries: Tensor, gallery: Tensor, twins: Tensor | None) -> Tensor:
    """Similarities (Q, M) of some queries, the same to the bit for equal gallery items."""
    similarities = queries @ gallery.T
    return similarities if twins is None else similarities[:, twins]


def _similarity_factors(x: Tensor, y: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Factors whose product ``x @ y.T`` ranks as ``metric`` does, most similar largest.

    Euclidean distance is ranked by <x, y> - |y|^2 / 2, one more coordinate, about the gallery's mean so that
    a common offset costs no digits. The mean is rounded to a power of two near the spread: differences of numbers
    with few digits, integers say, stay exact, and so do their ties.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"queries (N, D) and gallery (M, D) do not match: {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if len(x) == 0 or len(y) == 0:
        raise ValueError("retrieval needs at least one query and one gallery item")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(f"embeddings must be floating point, not {x.dtype} and {y.dtype}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    same = y is x
    x = x.detach().to(dtype)
    y = x if same else y.detach().to(device=x.device, dtype=dtype)
    if not (bool(x.isfinite().all()) and bool(y.isfinite().all())):
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


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k, dim=1)``, in two stages where that is cheaper.

    The k largest entries of a row lie within the k blocks with the largest maxima, so one pass for the maxima
    and two small top-k replace a top-k over the row. ``x`` must be contiguous.
    """
    length = x.shape[1]
    block = int((length / k) ** 0.5)
    if block < 4:
        return x.topk(k, dim=1)
    whole = length // block * block
    blocks = x[:, :whole].view(len(x), -1, block)
    chosen = blocks.amax(2).topk(k, dim=1).indices
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)
    values, places = torch.cat([candidates, x[:, whole:]], 1).topk(k, dim=1)
    within = places.clamp(max=k * block - 1)
    indices = chosen.gather(1, within // block) * block + within % block
    return values, torch.where(places < k * block, indices, places - k * block + whole)


def _blocks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _rows_for(columns: int, like: Tensor) -> int:
    """Rows of a (rows, columns) block of similarities: 64 MiB of it on a CPU, 1 GiB on an accelerator."""
    budget = (64 if like.device.type == "cpu" else 1024) * 2**20
    return max(1, min(4096, budget // (columns * like.element_size())))


def _shard(sharded: bool) -> tuple[int, int]:
    if not sharded:
        return 0, 1
    from wasskit.distributed.group import rank, world_size

    return rank(), world_size()


def _sum_over_ranks(x: Tensor) -> Tensor:
    from wasskit.distributed.collectives import reduce_sum

    return reduce_sum(x)


def _check_choices(ties: str, lone: str = "zero") -> None:
    for name, value, known in (("ties", ties, get_args(Ties)), ("lone", lone, get_args(Lone))):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")


def _positive_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not all(_is_positive_integer(value) for value in values):
        raise ValueError(f"{name} must be whole numbers of at least 1, not {list(values)}")
    return tuple(values)


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= 1
