"""What ``wasskit metrix`` alone measures."""

from __future__ import annotations

from wasskit.evaluation.metrics import COMMON, Metric, Metrics, share

_NEAREST = "mean squared distance of a test embedding to the nearest training embedding, on the unit sphere"

METRICS = Metrics(
    [
        Metric("clean", "min", "clean loss", "the metric loss without mixing"),
        Metric("mixed", "min", "mixed loss", "the metric loss of mixed examples"),
        Metric("triples", None, "mixed triples", "mixed per batch"),
        Metric("skipped", None, "skipped batches", "share of the batches that mixed nothing"),
        Metric("uniformity", "min", "L_U", "of the test embeddings, as lu"),
        Metric("utilisation", "min", "utilisation", _NEAREST),
        share("found@{k}", "found@{k}", "share of the positives among the first k (recall in information retrieval)"),
        share("ndcg@{k}", "nDCG@{k}", "discounted gain of the first k, by that of the best ranking"),
        share("r_precision", "R-precision", "share of positives among the first R of R positives"),
        share("mrr", "MRR", "mean reciprocal rank of the best positive"),
        share("map", "mAP", "average precision over the whole ranking"),
        share("ndcg", "nDCG", "discounted gain of the whole ranking, by that of the best"),
        Metric("mixed_utilisation", "min", "utilisation with mixtures", f"{_NEAREST} or mixture of two"),
    ],
    COMMON,
)
