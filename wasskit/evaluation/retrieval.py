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

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from wasskit.evaluation.ranking import UNRANKED as UNRANKED
from wasskit.evaluation.ranking import Lone as Lone
from wasskit.evaluation.ranking import Similarity as Similarity
from wasskit.evaluation.ranking import Ties as Ties
from wasskit.evaluation.ranking import average_precisions, best_ranks, faiss_rankings, prepare, similarity_factors
from wasskit.evaluation.rows import is_positive_integer
from wasskit.evaluation.ties import nearest_blocks

Backend = Literal["exact", "faiss"]


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    k: int | Sequence[int] = 1,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Similarity = "cosine",
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

    Example:
        >>> import torch, wasskit
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
        >>> wasskit.recall_at_k(embeddings, torch.tensor([0, 1, 0, 1]), k=(1, 2))
        tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    _check_choices(ties, lone)
    several = isinstance(k, Sequence)
    wanted = _positive_numbers("k", k if isinstance(k, Sequence) else (k,))
    if not wanted:
        raise ValueError("k names no rank: give at least one number")
    ranks = best_positive_rank(
        embeddings, labels, gallery=gallery, gallery_labels=gallery_labels, metric=metric, ties=ties, sharded=sharded
    )
    if lone == "skip":
        ranks = ranks[ranks != UNRANKED]
    # One comparison per k rather than one (N, len(k)) table: k is short, N is not.
    recalls = torch.stack([(ranks <= limit).double().mean() for limit in wanted])
    return recalls if several else recalls[0]


def map_at_r(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Similarity = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
) -> Tensor:
    """Mean average precision over the first R ranks, R the query's own number of positives; float64 scalar.

    ``sum_{i <= R} P(i) rel(i) / R`` (Musgrave et al., 2020). Arguments and errors as for :func:`recall_at_k`.

    Example:
        >>> import torch, wasskit
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> wasskit.map_at_r(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(1., dtype=torch.float64)
    """
    _check_choices(ties, lone)
    sets = prepare(embeddings, labels, gallery, gallery_labels, metric)
    return average_precisions(sets, (), ties, lone, sharded).precisions[-1]


def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    recall: Sequence[int] = (1, 2, 4, 8),
    map_k: Sequence[int] = (),
    map_r: bool = True,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Similarity = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
    sharded: bool = False,
    backend: Backend = "exact",
) -> dict[str, float]:
    """Several metrics from one pass over the similarities.

    Keys: ``recall@K`` for each K of ``recall``, ``precision@1``, ``map@K`` for each K of ``map_k``,
    ``map@r``. Other arguments as for :func:`recall_at_k`. ``backend="faiss"`` ranks with a flat faiss index
    instead (the extra ``faiss``); equal similarities then stand in the order in which faiss returns them.
    """
    _check_choices(ties, lone)
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be exact or faiss, not {backend!r}")
    recall = _positive_numbers("recall", recall)
    map_k = _positive_numbers("map_k", map_k)
    sets = prepare(embeddings, labels, gallery, gallery_labels, metric)
    if backend == "faiss":
        ranks, precisions = faiss_rankings(sets, recall, map_k, map_r, lone)
    elif map_k or map_r:
        ranks, precisions = average_precisions(sets, map_k, ties, lone, sharded, at_r=map_r, full_ranks=bool(recall))
    else:
        ranks, precisions = best_ranks(sets, ties, sharded), embeddings.new_empty(0)
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
    metric: Similarity = "cosine",
    ties: Ties = "pessimistic",
    sharded: bool = False,
) -> Tensor:
    """Rank (1 = nearest) of each query's most similar positive, int64 (N,); ``UNRANKED`` where there is none.

    Arguments as for :func:`recall_at_k`.
    """
    _check_choices(ties)
    sets = prepare(embeddings, labels, gallery, gallery_labels, metric)
    ranks = torch.empty_like(sets.order)
    ranks[sets.order] = best_ranks(sets, ties, sharded)
    return ranks


def nearest(
    queries: Tensor, k: int, *, gallery: Tensor | None = None, metric: Similarity = "cosine"
) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar gallery items of each query: similarities and indices, both (N, min(k, items)),
    best first.

    Without ``gallery`` the queries are their own gallery and none finds itself. Similarity is the cosine, the
    inner product, or minus the Euclidean distance. Equal gallery items are equally similar, and equally similar items
    stand in the order of their indices, also at the k-th place.
    """
    (k,) = _positive_numbers("k", (k,))
    own = gallery is None
    x, y = similarity_factors(queries, queries if gallery is None else gallery, metric)
    k = min(k, len(y) - own)
    if k < 1:
        raise ValueError("there is no other item to retrieve: the set has one item only")
    values, indices = [], []
    for rows, best, which in nearest_blocks(x, y, k, own=own):
        if metric == "euclidean":
            best, which = _by_distance(x[rows, :-1], y[:, :-1], which)
        values.append(best)
        indices.append(which)
    return torch.cat(values), torch.cat(indices)


def _by_distance(x: Tensor, y: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the Euclidean distances of x (N, D) to its items ``which`` (N, k) of y, falling, and the items.

    From the differences: in |x|^2 - 2 <x, y> + |y|^2 the distance of near points is lost to rounding.
    """
    which = which.sort(dim=1).values
    closeness = torch.stack([-(x - y[item]).norm(dim=1) for item in which.T], dim=1)
    closeness, order = closeness.sort(dim=1, descending=True, stable=True)
    return closeness, which.gather(1, order)


def _check_choices(ties: str, lone: str = "zero") -> None:
    for name, value, known in (("ties", ties, get_args(Ties)), ("lone", lone, get_args(Lone))):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")


def _positive_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not all(map(is_positive_integer, values)):
        raise ValueError(f"{name} must be whole numbers of at least 1, not {list(values)}")
    return tuple(values)
