"""Which gallery items answer a query, and which it does not meet: by labels, by graded pairs, by groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relevance:
    """The positives of Q queries among M gallery items. Queries with the same positives share one list of them.

    Args:
        lists: (Q,) int64, the list of each query.
        starts: (L + 1,) int64, where each list begins in ``columns``; the last entry is its length.
        columns: (P,) int64, gallery items, list by list.
        gains: (P,) float64, the relevance of each, above 0.
        judged: (Q,) bool, whether anything is known of the query; others are not measured.
    """

    lists: Tensor
    starts: Tensor
    columns: Tensor
    gains: Tensor
    judged: Tensor

    @classmethod
    def of_labels(cls, query_labels: Tensor, gallery_labels: Tensor) -> Relevance:
        """Items of the query's class are positives of relevance 1: (Q,) and (M,) integers."""
        gallery_labels = gallery_labels.to(query_labels)
        classes, lists = query_labels.unique(return_inverse=True)
        known = torch.isin(gallery_labels, classes).nonzero()[:, 0]
        columns = known[gallery_labels[known].argsort(stable=True)]
        found = gallery_labels[columns]
        ends = torch.searchsorted(found, classes, right=True)
        starts = torch.cat([ends.new_zeros(1), ends])
        gains = torch.ones(len(columns), dtype=torch.float64, device=columns.device)
        return cls(lists, starts, columns, gains, torch.ones_like(lists, dtype=torch.bool))

    @classmethod
    def of_pairs(cls, queries: Tensor, items: Tensor, gains: Tensor, count: int) -> Relevance:
        """Graded pairs, (P,) three times, of ``count`` queries; a relevance of 0 or less says that an item is none.

        A pair may be given once. Raises ``ValueError`` for one that is given twice.
        """
        judged = torch.zeros(count, dtype=torch.bool, device=queries.device)
        judged[queries] = True
        keys = queries * (int(items.max()) + 1 if len(items) else 1) + items
        if len(keys.unique()) < len(keys):
            raise ValueError("a pair of query and item is given twice")
        order = queries.argsort(stable=True)
        order = order[gains[order] > 0]
        starts = torch.cat([queries.new_zeros(1), queries[order].bincount(minlength=count).cumsum(0)])
        lists = torch.arange(count, device=queries.device)
        return cls(lists, starts, items[order], gains[order].double(), judged)

    @property
    def lengths(self) -> Tensor:
        """(Q,) how many positives each query has, itself and hidden ones included."""
        return self.starts.diff()[self.lists]

    def of(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and gains of some queries (r,): columns and gains (r, P), padded with column 0 and gain 0."""
        lists = self.lists[queries]
        starts, lengths = self.starts[lists], self.starts[lists + 1] - self.starts[lists]
        place = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device)
        valid = place < lengths[:, None]
        at = torch.where(valid, starts[:, None] + place, 0)
        if not len(self.columns):
            return at, at.double()
        return torch.where(valid, self.columns[at], 0), torch.where(valid, self.gains[at], 0.0)

    def moved(self, places: Tensor) -> Relevance:
        """The same with gallery item i at ``places[i]``."""
        return replace(self, columns=places[self.columns])


@dataclass(frozen=True)
class Hidden:
    """Gallery items that a query does not meet: they are neither positives nor in the way of any.

    Args:
        own: (Q,) int64, the query itself among the gallery; None: it is not there.
        pairs: queries and gallery items (H,) int64, sorted by query.
        items: (I,) int64, gallery items that no query meets.
        groups: of the queries (Q,) and of the gallery (M,), integers: a query meets no item of its own group ...
        labels: ... or, with the classes of both, only none that is of its class too (the same identity seen by the
            same camera, in person re-identification).
    """

    own: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    items: Tensor | None = None
    groups: tuple[Tensor, Tensor] | None = None
    labels: tuple[Tensor, Tensor] | None = None

    def hide(self, similarities: Tensor, queries: Tensor) -> None:
        """Set what the queries (r,) do not meet to -inf, in similarities (r, M)."""
        if self.own is not None:
            similarities[torch.arange(len(queries), device=queries.device), self.own[queries]] = -torch.inf
        if self.items is not None:
            similarities[:, self.items] = -torch.inf
        if self.groups is not None:
            same = self.groups[0][queries, None] == self.groups[1][None]
            if self.labels is not None:
                same &= self.labels[0][queries, None] == self.labels[1][None]
            similarities.masked_fill_(same, -torch.inf)
        if self.pairs is not None:
            sources, items = self.pairs
            first, last = (torch.searchsorted(sources, queries, right=right) for right in (False, True))
            counts = last - first
            rows = torch.repeat_interleave(torch.arange(len(queries), device=queries.device), counts)
            places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows] + first[rows]
            similarities[rows, items[places]] = -torch.inf

    def moved(self, places: Tensor, order: Tensor) -> Hidden:
        """The same with gallery item i at ``places[i]``, where ``order`` is the inverse of ``places``."""
        return Hidden(
            own=None if self.own is None else places[self.own],
            pairs=None if self.pairs is None else (self.pairs[0], places[self.pairs[1]]),
            items=None if self.items is None else places[self.items],
            groups=None if self.groups is None else (self.groups[0], self.groups[1][order]),
            labels=None if self.labels is None else (self.labels[0], self.labels[1][order]),
        )
