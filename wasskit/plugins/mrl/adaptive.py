"""What nested prefixes buy: retrieval and classification that spend long prefixes only where short ones do not decide.

Costs are counted as in Matryoshka Representation Learning (Kusupati et al., 2022): multiply-adds of inner products, of
which one counts as one operation; an exact search of N items with d coordinates costs N d per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wasskit.evaluation.compression import in_common
from wasskit.evaluation.retrieval import nearest

_DEPTH = 10
_CHUNK = 256


@dataclass(frozen=True)
class SearchStrategy:
    """A retrieval: search everything with the first dimension, then re-rank ever shorter lists with longer prefixes.

    ``stages`` are (dimension, length of the list it is applied to); the first length is the whole gallery.
    """

    name: str
    stages: tuple[tuple[int, int], ...]

    @property
    def operations(self) -> int:
        """Multiply-adds per query."""
        return sum(dim * length for dim, length in self.stages)

    @property
    def text(self) -> str:
        """E.g. ``8 > 64``: the dimensions in their order."""
        return " > ".join(str(dim) for dim, _ in self.stages)


@dataclass(frozen=True)
class Outcome:
    """Quality in percent and cost, in multiply-adds per query or image, of one way to retrieve or classify."""

    name: str
    text: str
    metrics: dict[str, float]
    operations: float


def single_shots(dims: Sequence[int], gallery: int) -> list[SearchStrategy]:
    """Exact search with each dimension alone."""
    return [SearchStrategy("single shot", ((d, gallery),)) for d in dims]


def adaptive_strategies(dims: Sequence[int], gallery: int, shortlist: int) -> list[SearchStrategy]:
    """Shortlist with each shorter prefix, re-rank with the longest."""
    length = min(shortlist, gallery)
    return [SearchStrategy("adaptive", ((d, gallery), (dims[-1], length))) for d in dims[:-1]]


def funnel_strategies(dims: Sequence[int], gallery: int, shortlist: int) -> list[SearchStrategy]:
    """From each prefix through all longer ones, the list halving at each step (to no less than 10)."""
    strategies = []
    for start in range(len(dims) - 2):
        stages = [(dims[start], gallery)]
        length = min(shortlist, gallery)
        for d in dims[start + 1 :]:
            stages.append((d, length))
            length = min(length, max(length // 2, _DEPTH))
        strategies.append(SearchStrategy("funnel", tuple(stages)))
    return strategies


def retrieve(
    queries: Tensor,
    gallery: Tensor,
    strategy: SearchStrategy,
    depth: int = _DEPTH,
    *,
    searched: dict[int, Tensor] | None = None,
) -> Tensor:
    """Indices (Q, min(depth, M)) of the gallery items that a strategy ranks first, best first.

    queries (Q, D), gallery (M, D). Prefixes are compared by their cosine; exact, and without a Q x M matrix.
    ``searched`` keeps what searches of the whole gallery found, by dimension, for the strategies that follow.
    """
    lengths = [length for _, length in strategy.stages[1:]] + [min(depth, len(gallery))]
    first = strategy.stages[0][0]
    found = (searched or {}).get(first)
    if found is None or found.shape[1] < lengths[0]:
        _, found = nearest(queries[:, :first], lengths[0], gallery=gallery[:, :first])
        if searched is not None:
            searched[first] = found
    found = found[:, : lengths[0]]
    for (dim, _), kept in zip(strategy.stages[1:], lengths[1:], strict=True):
        items = torch.nn.functional.normalize(gallery[:, :dim], dim=1)
        ranked = []
        for query, candidates in zip(queries[:, :dim].split(_CHUNK), found.split(_CHUNK), strict=True):
            similarity = torch.einsum("qd,qld->ql", query, items[candidates])
            best = similarity.topk(min(kept, candidates.shape[1]), dim=1).indices
            ranked.append(candidates.gather(1, best))
        found = torch.cat(ranked)
    return found


def retrieval_outcome(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    strategy: SearchStrategy,
    *,
    searched: dict[int, Tensor] | None = None,
) -> Outcome:
    """Precision@1 and mAP@10 (normalised by min(R, 10), R positives in the gallery) of a strategy, in percent."""
    found = retrieve(queries, gallery, strategy, searched=searched)
    hits = gallery_labels[found] == query_labels[:, None]
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = torch.where(hits, hits.cumsum(1) / places, 0.0)
    classes = int(torch.maximum(gallery_labels.max(), query_labels.max())) + 1
    positives = torch.bincount(gallery_labels, minlength=classes)[query_labels]
    average = precision.double().sum(1) / positives.clamp(1, _DEPTH)
    metrics = {"precision1": 100 * hits[:, 0].double().mean().item(), "map10": 100 * average.mean().item()}
    return Outcome(strategy.name, strategy.text, metrics, float(strategy.operations))


def kept_outcome(
    queries: Tensor, gallery: Tensor, strategy: SearchStrategy, truth: Tensor, *, searched: dict[int, Tensor]
) -> Outcome:
    """The share in percent of the items ``truth`` (Q, k) that are among the first k of a strategy."""
    k = truth.shape[1]
    found = retrieve(queries, gallery, strategy, k, searched=searched)
    kept = in_common(found, truth) / truth.numel()
    return Outcome(strategy.name, strategy.text, {f"overlap{k}": 100 * kept}, float(strategy.operations))


def cascade_outcome(logits: Tensor, labels: Tensor, dims: Sequence[int], threshold: float, *, tied: bool) -> Outcome:
    """Classify with the shortest prefix that is confident enough: largest probability at least ``threshold``.

    logits (K, N, C) of the nested classifiers, labels (N,). A tied classifier only adds the new coordinates
    when the prefix grows; separate ones start again, and all that were tried are paid for.
    """
    confident = logits.softmax(-1).amax(-1) >= threshold
    confident[-1] = True
    stop = confident.int().argmax(0)  # the first True
    predicted = logits.argmax(-1).gather(0, stop[None]).squeeze(0)
    widths = torch.tensor(dims, dtype=torch.float64, device=logits.device)
    paid = (widths if tied else widths.cumsum(0))[stop].mean().item()
    metrics = {"top1": 100 * (predicted == labels).double().mean().item(), "mean_dim": widths[stop].mean().item()}
    shares = torch.bincount(stop, minlength=len(dims)).double() / len(labels)
    metrics |= {f"share@{d}": 100 * share for d, share in zip(dims, shares.tolist(), strict=True)}
    return Outcome("cascade", f"{threshold:g}", metrics, paid * logits.shape[-1])


def occurring_thresholds(logits: Tensor) -> list[float]:
    """The deciles of the largest probabilities of all classifiers, rising, to three digits; labels are not looked at.

    logits (K, N, C). A fixed grid would lie beyond what classifiers of unit embeddings ever reach.
    """
    confidences = logits.softmax(-1).amax(-1).flatten().sort().values
    places = torch.arange(1, 10, device=logits.device) * (len(confidences) - 1) // 10
    return sorted({float(f"{value:.3g}") for value in confidences[places].tolist()})


def classifier_outcomes(logits: Tensor, labels: Tensor, dims: Sequence[int]) -> list[Outcome]:
    """Each classifier alone."""
    return [
        Outcome(
            "one dimension",
            str(d),
            {"top1": 100 * (one.argmax(-1) == labels).double().mean().item(), "mean_dim": float(d)},
            float(d * logits.shape[-1]),
        )
        for d, one in zip(dims, logits, strict=True)
    ]
