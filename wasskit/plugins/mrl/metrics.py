"""What ``wasskit mrl`` alone measures; each also at every nested dimension, as ``name@dimension``."""

from __future__ import annotations

from wasskit.evaluation.metrics import COMMON, Metric, Metrics, share

_PREFIXES = "every image of the split queries all others by the cosine of their prefixes"

METRICS = Metrics(
    [
        Metric("ce", "min", "cross entropy", "of the nested classifiers, mean over the dimensions"),
        Metric("wasserstein", "min", "Sinkhorn divergences", "between nested prefixes, their sum"),
        share("precision{k}", "precision@{k}", f"share of positives among the first k; {_PREFIXES}"),
        share(
            "retrieval_map{k}",
            "retrieval mAP@{k}",
            f"average precision over the first k, divided by min(R, k) for R positives; {_PREFIXES}",
        ),
        Metric(
            "mean_dim", "min", "mean dimension", "coordinates that a cascade of classifiers uses per image"
        ),
    ],
    COMMON,
)

CLASSIFICATION = METRICS.headings("top1", "top5", "map10")
"""Metrics of the classifiers, with their headings."""

NEIGHBOURS = METRICS.headings("knn", "precision1", "retrieval_map10")
"""Metrics of the embeddings, with their headings."""
