"""Metrics of representations and of transport maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasskit._lazy import attach

_PUBLIC = {
    "topk_accuracy": "wasskit.evaluation.accuracy",
    "class_map_at_k": "wasskit.evaluation.accuracy",
    "compression_rows": "wasskit.evaluation.compression",
    "knn_accuracy": "wasskit.evaluation.knn",
    "query_metrics": "wasskit.evaluation.per_query",
    "recall_at_k": "wasskit.evaluation.retrieval",
    "map_at_r": "wasskit.evaluation.retrieval",
    "alignment": "wasskit.evaluation.uniformity",
    "gaussian_uniformity": "wasskit.evaluation.uniformity",
    "w2_uniformity": "wasskit.evaluation.uniformity",
    "singular_spectrum": "wasskit.evaluation.uniformity",
    "l2_uvp": "wasskit.evaluation.transport",
    "frechet_distance": "wasskit.evaluation.transport",
    "rankme": "wasskit.evaluation.label_free",
    "alpha_req": "wasskit.evaluation.label_free",
    "lidar": "wasskit.evaluation.label_free",
    "sliced_uniformity": "wasskit.evaluation.label_free",
    "sigreg_statistic": "wasskit.evaluation.gaussianity",
}

__all__ = [
    "alignment",
    "alpha_req",
    "class_map_at_k",
    "compression_rows",
    "frechet_distance",
    "gaussian_uniformity",
    "knn_accuracy",
    "l2_uvp",
    "lidar",
    "map_at_r",
    "query_metrics",
    "rankme",
    "recall_at_k",
    "sigreg_statistic",
    "singular_spectrum",
    "sliced_uniformity",
    "topk_accuracy",
    "w2_uniformity",
]

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

__getattr__, __dir__ = attach(__name__, _PUBLIC)
