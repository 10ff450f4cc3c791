"""``wasskit ssl knn``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import MeasureOptions, NeighbourOptions


@dataclass(frozen=True, kw_only=True)
class Knn(MeasureOptions, NeighbourOptions):
    """Options of ``wasskit ssl knn``."""


def body(config: Knn, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import is_main
    from wasskit.plugins.ssl.evaluation import Neighbours, features_of
    from wasskit.plugins.ssl.measure import measuring
    from wasskit.plugins.ssl.results import paper_of, record, show_metrics

    with measuring(config) as measurement:
        bank = measurement.split("train")
        neighbours = Neighbours.among(bank, config.k, config.temperature)
        test = measurement.split("test")
        backbone, settings = measurement.model.encoder.backbone, measurement.settings
        metrics = neighbours.measure(
            features_of(backbone, bank, settings), features_of(backbone, test, settings)
        )
        if is_main():
            record(measurement.folder, measurement.key, metrics)
    title = f"{measurement.dataset}/test, neighbours among {len(bank):,} images (percent)"
    show_metrics(title, {config.model.name: metrics}, paper_of(config.model))
    return metrics


command = Command(
    "ssl knn",
    Knn,
    body,
    "Classify test images by their nearest neighbours among the training images.\n\n"
    "Similarity is the cosine of the backbone's features; each of the k most similar images votes with weight "
    "exp(similarity). Published: k = 200, no temperature.",
    ("wasskit ssl knn runs/ssl/byol-digits", "wasskit ssl knn runs/ssl/byol-digits -k 20 --temperature 0.07"),
)
