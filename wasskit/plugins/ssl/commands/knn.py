"""``wasskit ssl knn``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import EvaluationOptions, NeighbourOptions
from wasskit.trained.vectors import ModelOrFile, TrainFileOptions


@dataclass(frozen=True, kw_only=True)
class Knn(EvaluationOptions, TrainFileOptions):
    """Options of ``wasskit ssl knn``."""

    needs_second: ClassVar[bool] = True

    trained: ModelOrFile
    neighbours: NeighbourOptions = NeighbourOptions()


def body(config: Knn, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.evaluation import Neighbours, features_of
    from wasskit.plugins.ssl.measure import evaluation_of
    from wasskit.plugins.ssl.reports import knn_report
    from wasskit.report import finish

    if config.of_vectors:
        return _of_vectors(config)
    with evaluation_of(config) as setup:
        bank = setup.split("train")
        neighbours = Neighbours.among(bank, config.neighbours.k, config.neighbours.temperature)
        test = setup.split("test")
        network = setup.model.encoder.backbone
        known, asked = (features_of(network, part, setup.settings) for part in (bank, test))
        title = f"{test.name}/test, neighbours among {len(bank):,} images"
        report = knn_report(known, asked, neighbours, setup.named, title)
    finish(report, setup.folder)
    return report.result


def _of_vectors(config: Knn) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.ssl.evaluation import Neighbours
    from wasskit.plugins.ssl.reports import Named, knn_report
    from wasskit.report import finish
    from wasskit.trained.data import results_of
    from wasskit.trained.vectors import read_features

    with group(config.machine.device) as device:
        folder = results_of(config, "ssl")
        given = read_features(config, device)
        assert given.second is not None
        count = len(given.second.labels)
        neighbours = Neighbours.of(
            count, given.other, config.neighbours.k, config.neighbours.temperature, things="vectors"
        )
        title = f"{given.name}, neighbours among {count:,} vectors of {given.other}"
        report = knn_report(given.second, given.first, neighbours, Named(given.name, given.name), title)
    finish(report, folder)
    return report.result


command = Command(
    "ssl knn",
    Knn,
    body,
    "Classify test images by their nearest neighbours among the training images.\n\n"
    "Similarity is the cosine of the backbone's features; each of the k most similar images votes with weight "
    "exp(similarity). Published: k = 200, no temperature.",
    (
        "wasskit ssl knn runs/ssl/byol-digits",
        "wasskit ssl knn test.npy --labels test_labels.npy --train train.npy --train-labels train_labels.npy",
        "wasskit ssl knn runs/ssl/byol-digits -k 20 --temperature 0.07",
    ),
)
