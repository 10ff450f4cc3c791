"""``wasskit ssl knn``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import MeasureOptions, NeighbourOptions
from wasskit.trained.vectors import TrainFileOptions, model_or_file


@dataclass(frozen=True, kw_only=True)
class Knn(MeasureOptions, NeighbourOptions, TrainFileOptions):
    """Options of ``wasskit ssl knn``."""

    needs_second: ClassVar[bool] = True

    model: Path = model_or_file()


def body(config: Knn, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.evaluation import Neighbours, features_of
    from wasskit.plugins.ssl.measure import measuring
    from wasskit.plugins.ssl.reports import knn_report
    from wasskit.report import finish

    if config.from_file:
        return _of_files(config)
    with measuring(config) as measurement:
        bank, test = measurement.split("train"), measurement.split("test")
        neighbours = Neighbours.among(bank, config.k, config.temperature)
        network = measurement.model.encoder.backbone
        known, asked = (features_of(network, part, measurement.settings) for part in (bank, test))
        title = f"{test.name}/test, neighbours among {len(bank):,} images"
        report = knn_report(known, asked, neighbours, measurement.named, title)
    finish(report, measurement.folder)
    return report.result


def _of_files(config: Knn) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.ssl.evaluation import Neighbours
    from wasskit.plugins.ssl.reports import Named, knn_report
    from wasskit.report import finish
    from wasskit.trained.files import results_folder
    from wasskit.trained.vectors import read_features

    with group(config.device) as device:
        folder = results_folder(config.model, config.output, plugin="ssl")
        test, bank, _ = read_features(config, device)
        assert bank is not None
        count = len(bank.labels)
        neighbours = Neighbours.of(count, str(config.train), config.k, config.temperature, things="vectors")
        name = config.model.stem
        title = f"{name}, neighbours among {count:,} vectors of {config.train}"
        report = knn_report(bank, test, neighbours, Named(name, name), title)
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
