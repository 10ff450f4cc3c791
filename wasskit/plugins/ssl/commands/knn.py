"""``wasskit ssl knn``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import EvaluationOptions, NeighbourOptions


@dataclass(frozen=True, kw_only=True)
class Knn(EvaluationOptions):
    """Options of ``wasskit ssl knn``."""

    neighbours: NeighbourOptions = NeighbourOptions()


def body(config: Knn, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.evaluation import Neighbours
    from wasskit.plugins.ssl.measure import evaluation_of
    from wasskit.plugins.ssl.reports import knn_report
    from wasskit.report import finish

    with evaluation_of(config) as setup:
        bank = setup.split("train")
        neighbours = Neighbours.among(bank, config.neighbours.k, config.neighbours.temperature)
        report = knn_report(
            setup.model, bank, setup.split("test"), neighbours, setup.settings,
            setup.named,
        )  # fmt: skip
    finish(report, setup.folder)
    return report.result


command = Command(
    "ssl knn",
    Knn,
    body,
    "Classify test images by their nearest neighbours among the training images.\n\n"
    "Similarity is the cosine of the backbone's features; each of the k most similar images votes with weight "
    "exp(similarity). Published: k = 200, no temperature.",
    ("wasskit ssl knn runs/ssl/byol-digits", "wasskit ssl knn runs/ssl/byol-digits -k 20 --temperature 0.07"),
)
