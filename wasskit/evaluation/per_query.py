r"""Every retrieval metric of every query, exact, some rows of queries at a time: memory grows with Q and M, not Q M.

With rank_j of the j-th most similar of R positives, of relevance g_j, and under the default conventions:

    recall@K      1 if rank_1 <= K                         (hit rate, CMC)
    found@K       #{j: rank_j <= K} / R                    (recall in information retrieval)
    precision@K   #{j: rank_j <= K} / K
    mrr           1 / rank_1
    r_precision   precision@R
    map@K         1 / min(R, K) sum_{rank_j <= K} j / rank_j;  map@r: K = R;  map: K = M
    ndcg@K        sum_{rank_j <= K} g_j / log2(1 + rank_j) over the same of the best ranking   (Jarvelin and
                  Kekalainen, 2002);  ndcg: K = M

Where libraries choose otherwise, :mod:`wasskit.evaluation.conventions` names it. Of equal gallery items the
similarities are equal to the bit (:mod:`wasskit.evaluation.ties`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wasskit.distributed.collectives import reduce_sum
from wasskit.errors import UserError
from wasskit.evaluation.conventions import Conventions, TieRule
from wasskit.evaluation.ranking import UNRANKED, Similarity, shard_of, similarity_factors
from wasskit.evaluation.relevance import Hidden, Relevance
from wasskit.evaluation.rows import inner_products
from wasskit.evaluation.ties import Equals, blocks, equal_rows, largest, rows_for, top_entries


@dataclass(frozen=True)
class Wanted:
    """Which metrics: the K of each kind; those of R and the reciprocal rank are always measured.

    Args:
        recall, precision, found, average, ndcg: the K of ``recall@K``, ``precision@K``, ``found@K``, ``map@K``,
            ``ndcg@K``.
        full: whether ``map`` and ``ndcg`` of the whole ranking too, for which the gallery is sorted for every query.
    """

    recall: Sequence[int] = (1, 2, 4, 8)
    precision: Sequence[int] = (1,)
    found: Sequence[int] = ()
    average: Sequence[int] = ()
    ndcg: Sequence[int] = ()
    full: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of a table."""
        kinds = ("recall", self.recall), ("precision", self.precision), ("found", self.found), ("map", self.average)
        counted = [f"{kind}@{k}" for kind, numbers in kinds for k in numbers]
        whole = ["map", "ndcg"] if self.full else []
        return (*counted, "map@r", *(f"ndcg@{k}" for k in self.ndcg), "r_precision", "mrr", *whole)


@dataclass(frozen=True)
class QueryMetrics:
    """What was measured of each of Q queries.

    Args:
        names: of the metrics.
        values: (Q, len(names)) float64, in [0, 1]; 0 for queries without a positive.
        ranks: (Q,) int64, the rank of the best positive (1 = nearest); ``UNRANKED`` where there is none.
        positives: (Q,) int64, how many there are.
        judged: (Q,) bool; other queries are not measured.
        conventions: under which.
    """

    names: tuple[str, ...]
    values: Tensor
    ranks: Tensor
    positives: Tensor
    judged: Tensor
    conventions: Conventions

    @property
    def counted(self) -> Tensor:
        """(Q,) bool: the queries that a mean counts."""
        return self.judged & (self.positives > 0) if self.conventions.lone == "skip" else self.judged

    def by_class(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The classes (C,) with queries that count, how many these are (C,), and their means (C, len(names))."""
        classes, number = labels.to(self.values.device)[self.counted].unique(return_inverse=True)
        counts = number.bincount(minlength=len(classes))
        sums = self.values.new_zeros(len(classes), len(self.names)).index_add_(0, number, self.values[self.counted])
        return classes, counts, sums / counts[:, None]

    def means(self, labels: Tensor | None = None) -> dict[str, float]:
        """The mean of each metric, over queries or, with their ``labels`` (Q,), over classes: as the conventions say.

        Raises:
            UserError: no query counts; or means over classes are asked for without labels.
        """
        if not bool(self.counted.any()):
            raise UserError("No query has a positive in the gallery: there is nothing to average.")
        if self.conventions.average == "queries":
            found = self.values[self.counted].mean(0)
        elif labels is None:
            raise UserError("Averages over classes need labels of the queries.")
        else:
            found = self.by_class(labels)[2].mean(0)
        return dict(zip(self.names, found.tolist(), strict=True))


_NOTHING, _OURS = Hidden(), Conventions()


@torch.no_grad()
def query_metrics(
    queries: Tensor,
    labels: Tensor | None = None,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    relevance: Relevance | None = None,
    hidden: Hidden = _NOTHING,
    names: Sequence[str] | None = None,
    wanted: Wanted = Wanted(),
    conventions: Conventions = _OURS,
    metric: Similarity = "cosine",
    sharded: bool = False,
) -> QueryMetrics:
    """The metrics of every query.

    Args:
        queries: (Q, D) floating point.
        labels: (Q,) integers: items of the query's class are its positives, unless ``relevance`` says which are.
        gallery: (M, D), None: the queries search one another, and none meets itself.
        gallery_labels: (M,), with ``gallery`` and ``labels``.
        relevance: the positives of each query.
        hidden: what a query does not meet besides itself.
        names: of the M items, for ``ties="docno"``; None: the numbers of the rows.
        sharded: divide the work over the ranks of the process group, which must all call with the same tensors.

    Raises:
        UserError: with ``lone="error"``, a query without a positive.
        ValueError: shapes that do not match, neither labels nor relevance, embeddings that are not finite.
    """
    if relevance is None:
        if labels is None or (gallery is None) != (gallery_labels is None):
            raise ValueError("queries need labels, and a gallery its own, or relevance")
        device = queries.device
        known = labels if gallery_labels is None else gallery_labels
        relevance = Relevance.of_labels(labels.to(device), known.to(device))
    x, y = similarity_factors(queries, queries if gallery is None else gallery, metric)
    if gallery is None:
        hidden = replace(hidden, own=torch.arange(len(x), device=x.device))
    if conventions.ties == "docno":
        called = names if names is not None else [str(row) for row in range(len(y))]
        order = torch.tensor(sorted(range(len(y)), key=called.__getitem__, reverse=True), device=y.device)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=y.device))
        y, relevance, hidden = y[order], relevance.moved(places), hidden.moved(places, order)
    found = _Search(x, y, relevance, hidden, wanted, conventions).run(sharded)
    lone = int((found.judged & (found.positives == 0)).sum())
    if lone and conventions.lone == "error":
        raise UserError(f"{lone:,} of {int(found.judged.sum()):,} queries have no positive in the gallery.")
    return found


@dataclass(frozen=True)
class _Search:
    queries: Tensor
    gallery: Tensor
    relevance: Relevance
    hidden: Hidden
    wanted: Wanted
    conventions: Conventions

    def run(self, sharded: bool) -> QueryMetrics:
        device, count = self.queries.device, len(self.queries)
        values = torch.zeros(count, len(self.wanted.names), dtype=torch.float64, device=device)
        ranks, positives = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
        equals = equal_rows(self.gallery)
        share, shares = shard_of(sharded)
        # Queries with as many positives side by side, so that little of a block is padding.
        order = self.relevance.lengths.argsort(stable=True)
        # Sorting takes places and values of a block: a quarter of the rows.
        height = max(1, rows_for(len(self.gallery), self.queries) // 4)
        for number, rows in enumerate(blocks(count, height)):
            if number % shares == share:
                chosen = order[rows]
                values[chosen], ranks[chosen], positives[chosen] = self._block(chosen, equals)
        if shares > 1:
            values, ranks, positives = (reduce_sum(x) for x in (values, ranks, positives))
        ranks = torch.where(positives > 0, ranks, UNRANKED)
        return QueryMetrics(self.wanted.names, values, ranks, positives, self.relevance.judged, self.conventions)

    def _block(self, chosen: Tensor, equals: Equals) -> tuple[Tensor, Tensor, Tensor]:
        """Values (r, names), ranks of the best positive (r,) and numbers of positives (r,) of some queries."""
        similarities = equals.level(inner_products(self.queries[chosen], self.gallery))
        self.hidden.hide(similarities, chosen)
        columns, gains = self.relevance.of(chosen)
        gains = torch.where(similarities.gather(1, columns) > -torch.inf, gains, 0.0)
        counts = (gains > 0).sum(1)
        most = int(counts.max())
        if most == 0:
            return similarities.new_zeros(len(chosen), len(self.wanted.names), dtype=torch.float64), counts, counts
        wanted = self.wanted
        numbers = (most, *wanted.precision, *wanted.found, *wanted.average, *wanted.ndcg)
        limit = len(self.gallery) if wanted.full else min(max(numbers), len(self.gallery))
        first, ranks, ranked = ranks_of_positives(similarities, columns, gains, self.conventions.ties, limit)
        best = gains.sort(1, descending=True).values
        values = _values(first, ranks, ranked, counts, best, wanted, self.conventions)
        return torch.where(counts[:, None] > 0, values, 0.0), first, counts


def ranks_of_positives(
    similarities: Tensor, columns: Tensor, gains: Tensor, ties: TieRule, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the positives of some queries stand.

    Args:
        similarities: (r, M), -inf for items that do not count; changed.
        columns: (r, P), the positives.
        gains: (r, P) float64, 0 where there is none.
        limit: ranks up to this one are told, in order; larger ones are ``UNRANKED`` or larger than ``limit``.

    Returns:
        The rank (r,) of the best positive, exact whatever the limit; ranks (r, K), ascending, K = min(P, limit); the
        gains (r, K) of those.
    """
    valid = gains > 0
    positive = similarities.gather(1, columns).masked_fill(~valid, -torch.inf)
    if ties in ("order", "docno"):
        found = _in_order(similarities, columns, positive, limit)
        first, ranks = found[0], torch.where(valid, found[1], UNRANKED)
        ranks, order = ranks.sort(dim=1, stable=True)
        kept = min(limit, ranks.shape[1])
        return first, ranks[:, :kept], gains.gather(1, order)[:, :kept]
    # Equally similar positives stand as the rule has it of all items: the less relevant first, or last.
    order = gains.argsort(dim=1, descending=ties == "optimistic", stable=True)
    positive, gains = positive.gather(1, order), gains.gather(1, order)
    positive, falling = positive.sort(dim=1, descending=True, stable=True)
    kept = min(limit, positive.shape[1])
    positive, gains = positive[:, :kept], gains.gather(1, falling)[:, :kept]
    rows, places = valid.nonzero(as_tuple=True)
    similarities[rows, columns[rows, places]] = -torch.inf  # negatives alone from here on
    reach = torch.ge if ties == "pessimistic" else torch.gt
    first = reach(similarities, positive[:, :1]).sum(1) + 1
    nearest = top_entries(similarities, limit)[0]
    # Ascending in -similarity; "right" counts the equal ones too.
    before = torch.searchsorted(-nearest, -positive, right=ties == "pessimistic")
    ranks = before + torch.arange(1, kept + 1, device=before.device)
    return first, torch.where(positive > -torch.inf, ranks, UNRANKED), gains


def _in_order(similarities: Tensor, columns: Tensor, positive: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Ranks where equally similar items stand in the order of their columns: of the best positive (r,), and of each
    positive (r, P), ``UNRANKED`` beyond the limit."""
    best = positive.amax(1, keepdim=True)
    among = torch.where(positive == best, columns, similarities.shape[1]).amin(1, keepdim=True)
    place = torch.arange(similarities.shape[1], device=columns.device)
    first = (similarities > best).sum(1) + ((similarities == best) & (place < among)).sum(1) + 1
    nearest = largest(similarities, limit)[1]
    ranks = torch.full_like(similarities, UNRANKED, dtype=torch.int64)
    ranks.scatter_(1, nearest, torch.arange(1, limit + 1, device=columns.device).expand_as(nearest))
    return first, ranks.gather(1, columns)


def _values(
    first: Tensor, ranks: Tensor, gains: Tensor, counts: Tensor, best: Tensor, wanted: Wanted, how: Conventions
) -> Tensor:
    """The metrics of some queries, (r, names), from the ranks (r, K) and gains (r, K) of their R = ``counts`` (r,)
    positives; ``best`` (r, P): their gains, falling."""
    place = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = place / ranks.double()
    earned = _gain(gains, how) / (1 + ranks.double()).log2()
    discount = 1 / (1 + torch.arange(1, best.shape[1] + 1, device=ranks.device).double()).log2()
    ideal = _gain(best, how) * discount
    some = counts.clamp(min=1)

    def within(values: Tensor, limit: Tensor | int) -> Tensor:
        reached = ranks <= (limit[:, None] if isinstance(limit, Tensor) else limit)
        return torch.where(reached, values, 0.0).sum(1)

    def hits(limit: Tensor | int) -> Tensor:
        return within(torch.ones_like(precision), limit)

    def average_precision(k: int) -> Tensor:
        over = {"least": some.clamp(max=k), "positives": some, "found": hits(k).clamp(min=1)}
        return within(precision, k) / over[how.map_over]

    def ndcg(k: int) -> Tensor:
        perfect = ideal[:, :k].sum(1)
        return within(earned, k) / torch.where(perfect > 0, perfect, 1.0)

    found = [
        *((first <= k).double() for k in wanted.recall),
        *(hits(k) / (some.clamp(max=k) if how.precision_over == "least" else k) for k in wanted.precision),
        *(hits(k) / some for k in wanted.found),
        *(average_precision(k) for k in wanted.average),
        within(precision, counts) / some,
        *(ndcg(k) for k in wanted.ndcg),
        hits(counts) / some,
        1 / first.double(),
        *([within(precision, UNRANKED - 1) / some, ndcg(UNRANKED - 1)] if wanted.full else []),
    ]
    return torch.stack(found, 1)


def _gain(relevance: Tensor, how: Conventions) -> Tensor:
    return relevance if how.gain == "linear" else torch.exp2(relevance) - 1
