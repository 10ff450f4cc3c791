"""R-precision: the share of positives among the first R ranks, R the query's own number of positives."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.evaluation.ranking import Lone, Metric, Ties, prepare
from wasskit.evaluation.ties import blocks, rows_for, top_entries

__all__ = ["r_precision"]


def r_precision(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    metric: Metric = "cosine",
    ties: Ties = "pessimistic",
    lone: Lone = "zero",
) -> Tensor:
    """Mean over the queries of the share of positives among their R nearest gallery items, float64 scalar.

    Arguments and errors as for :func:`wasskit.evaluation.retrieval.map_at_r`, which besides weighs the positives by the
    precision at their rank and so is never larger.
    """
    if ties not in ("pessimistic", "optimistic") or lone not in ("zero", "skip"):
        raise ValueError(f"ties={ties!r}, lone={lone!r}: pessimistic or optimistic, zero or skip")
    sets = prepare(embeddings, labels, gallery, gallery_labels, metric)
    counts = sets.positives
    total = counts.new_zeros((), dtype=torch.float64)
    for rows in blocks(len(counts), rows_for(len(sets.gallery), sets.queries)):
        most = int(counts[rows].max())
        if most == 0:
            continue
        columns, own = sets.columns(rows), counts[rows, None]
        similarities = sets.equals.level(sets.queries[rows] @ sets.gallery.T)
        positives = sets.positive_similarities(rows, similarities[:, columns]).topk(most, dim=1).values
        # From here on the negatives alone; beyond the R-th none can push a positive out of the first R ranks.
        similarities[:, columns].masked_fill_(sets.same_label(rows, columns), -torch.inf)
        negatives = top_entries(similarities, min(most, similarities.shape[1]))[0]
        before = torch.searchsorted(-negatives, -positives, right=ties == "pessimistic")
        place = torch.arange(1, most + 1, device=counts.device)
        found = ((place <= own) & (before + place <= own)).sum(1)
        total += (found / own[:, 0].clamp(min=1).double()).sum()
    return total / ((counts > 0).sum() if lone == "skip" else len(counts))
