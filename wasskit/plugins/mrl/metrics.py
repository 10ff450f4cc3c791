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
        share("recall{k}", "recall@{k}", f"share of queries with a positive among the first k; {_PREFIXES}"),
        share("nn1", "1-NN", "class of the nearest training vector by the cosine of prefixes"),
        share(
            "overlap{k}",
            "{k} nearest kept",
            "share of the k nearest vectors by the whole cosine that stay among the k nearest",
        ),
        Metric(
            "neighbours", "min", "neighbours", "divergence of the neighbourhoods of prefixes, mean over the dimensions"
        ),
        Metric("pairs", "min", "pairs", "mean difference of cosines of prefixes and of whole vectors"),
        Metric("cosine_ce", "min", "cross entropy by cosine", "of the nested classifiers, mean over the dimensions"),
        Metric("ranking", "min", "ranking", "listwise loss of queries and documents, mean over the dimensions"),
        Metric("mean_dim", "min", "mean dimension", "coordinates that a cascade of classifiers uses per image"),
    ],
    COMMON,
)

CLASSIFICATION = METRICS.headings("top1", "top5", "map10")
"""Metrics of the classifiers, with their headings."""

NEIGHBOURS = METRICS.headings("knn", "precision1", "retrieval_map10")
"""Metrics of the embeddings, with their headings."""
