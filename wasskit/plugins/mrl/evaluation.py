"""Everything that is measured per dimension, from one pass over the data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.evaluation.accuracy import RankCounts
from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.linear import logistic_probe
from wasskit.evaluation.retrieval import retrieval_metrics
from wasskit.plugins.mrl.metrics import NEIGHBOURS
from wasskit.plugins.mrl.network import MrlModel

_CHUNK = 1024


def classify_prefixes(
    model: MrlModel, normalised: Tensor, labels: Tensor, at: Sequence[int] | None = None
) -> dict[str, float]:
    """Top-1, top-5 and mAP@10 over ranked classes in percent, at each trained dimension and their means.

    normalised (N, D), labels (N,). All three follow from the rank of the true class; nothing is sorted. ``at``: some
    of the trained dimensions, in place of all.
    """
    dims = model.dims
    counts = RankCounts((len(dims),), depth=10, device=normalised.device)
    with torch.no_grad():
        for part, true in zip(normalised.split(_CHUNK), labels.split(_CHUNK), strict=True):
            counts.update(model.objective.classifiers(part), true)
    return rank_metrics(counts, dims, at)


def rank_metrics(counts: RankCounts, dims: Sequence[int], at: Sequence[int] | None = None) -> dict[str, float]:
    """Counts of ranks as percentages: ``top1@d``, ``top5@d``, ``map10@d`` and, without ``@d``, the means over dims.

    ``at``: some of ``dims``, in place of all.
    """
    values = {"top1": counts.topk(1), "top5": counts.topk(5), "map10": counts.class_map(10)}
    at = dims if at is None else at
    places = [dims.index(d) for d in at]
    return _with_means({name: (100 * v[places]).tolist() for name, v in values.items()}, at)


def neighbour_metrics(
    embeddings: Tensor,
    labels: Tensor,
    dims: Sequence[int],
    *,
    train: tuple[Tensor, Tensor] | None = None,
    k: int = 20,
    temperature: float | None = 0.07,
    between: Sequence[int] = (),
) -> dict[str, float]:
    """k-NN accuracy (against ``train``), precision@1 and mAP@10 of retrieval in percent, at any dimensions.

    embeddings (N, D), labels (N,). A prefix is compared by its cosine. In retrieval every image of the split queries
    all others; mAP@10 is normalised by min(R, 10) for R images of the query's class. The work is shared by the ranks.
    What is measured at ``between`` too is not in the means.
    """
    values: dict[str, list[float]] = {name: [] for name in NEIGHBOURS if name != "knn" or train is not None}
    for d in (*dims, *between):
        prefix = embeddings[:, :d]
        if train is not None:
            accuracy = knn_accuracy(
                train[0][:, :d], train[1], prefix, labels, min(k, len(train[0])), temperature, sharded=True
            )
            values["knn"].append(100 * accuracy.item())
        found = retrieval_metrics(prefix, labels, recall=(1,), map_k=(10,), map_r=False, sharded=True)
        values["precision1"].append(100 * found["precision@1"])
        values["retrieval_map10"].append(100 * found["map@10"])
    return _with_means(values, dims, between)


@torch.no_grad()
def prefix_logits(train: Tensor, labels: Tensor, test: Tensor, dims: Sequence[int], *, ridge: float = 1e-5) -> Tensor:
    """Logits (K, M, C) of ``test`` (M, D) by a classifier of each prefix, divided by its length: logistic regressions
    of ``train`` (N, D) with ``labels`` (N,)."""
    found = []
    for dim in dims:
        known, asked = (F.normalize(x[:, :dim], dim=1) for x in (train, test))
        found.append(logistic_probe(known, labels, int(labels.max()) + 1, ridge=ridge)(asked))
    return torch.stack(found)


def between(dims: Sequence[int]) -> tuple[int, ...]:
    """The dimensions together with one between each pair: the geometric mean, rounded."""
    middles = {round((a * b) ** 0.5) for a, b in itertools.pairwise(dims)}
    return tuple(sorted({*dims, *middles}))


def _with_means(values: dict[str, list[float]], dims: Sequence[int], between: Sequence[int] = ()) -> dict[str, float]:
    """``values`` at ``dims`` and ``between`` by name and dimension, and means over ``dims``."""
    means = {name: sum(v[: len(dims)]) / len(dims) for name, v in values.items()}
    return means | {f"{n}@{d}": x for n, v in values.items() for d, x in zip((*dims, *between), v, strict=True)}
