"""Metrics of representations and of transport maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasskit._lazy import attach

_PUBLIC = {
    "wasskit.evaluation.accuracy": ("topk_accuracy", "class_map_at_k"),
    "wasskit.evaluation.compression": ("compression_rows",),
    "wasskit.evaluation.knn": ("knn_accuracy",),
    "wasskit.evaluation.per_query": ("query_metrics",),
    "wasskit.evaluation.retrieval": ("recall_at_k", "map_at_r"),
    "wasskit.evaluation.uniformity": ("alignment", "gaussian_uniformity", "w2_uniformity", "singular_spectrum"),
    "wasskit.evaluation.transport": ("l2_uvp", "frechet_distance"),
    "wasskit.evaluation.label_free": ("rankme", "alpha_req", "lidar", "sliced_uniformity"),
    "wasskit.evaluation.gaussianity": ("sigreg_statistic",),
}

if TYPE_CHECKING:
    from wasskit.evaluation.accuracy import class_map_at_k as class_map_at_k
    from wasskit.evaluation.accuracy import topk_accuracy as topk_accuracy
    from wasskit.evaluation.compression import compression_rows as compression_rows
    from wasskit.evaluation.gaussianity import sigreg_statistic as sigreg_statistic
    from wasskit.evaluation.knn import knn_accuracy as knn_accuracy
    from wasskit.evaluation.label_free import alpha_req as alpha_req
    from wasskit.evaluation.label_free import lidar as lidar
    from wasskit.evaluation.label_free import rankme as rankme
    from wasskit.evaluation.label_free import sliced_uniformity as sliced_uniformity
    from wasskit.evaluation.per_query import query_metrics as query_metrics
    from wasskit.evaluation.retrieval import map_at_r as map_at_r
    from wasskit.evaluation.retrieval import recall_at_k as recall_at_k
    from wasskit.evaluation.transport import frechet_distance as frechet_distance
    from wasskit.evaluation.transport import l2_uvp as l2_uvp
    from wasskit.evaluation.uniformity import alignment as alignment
    from wasskit.evaluation.uniformity import gaussian_uniformity as gaussian_uniformity
    from wasskit.evaluation.uniformity import singular_spectrum as singular_spectrum
    from wasskit.evaluation.uniformity import w2_uniformity as w2_uniformity

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
