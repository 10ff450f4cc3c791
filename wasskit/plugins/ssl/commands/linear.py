"""``wasskit ssl linear``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import EvaluationOptions, ProbeOptions
from wasskit.trained.vectors import ModelOrFile, TrainFileOptions


@dataclass(frozen=True, kw_only=True)
class Linear(EvaluationOptions, TrainFileOptions):
    """Options of ``wasskit ssl linear``."""

    needs_second: ClassVar[bool] = True

    trained: ModelOrFile
    linear: ProbeOptions = ProbeOptions()


def body(config: Linear, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.ssl.evaluation import require_labels
    from wasskit.plugins.ssl.measure import evaluation_of, probe_of
    from wasskit.plugins.ssl.reports import Named, linear_report, probed, probed_features
    from wasskit.report import finish
    from wasskit.trained.data import results_of
    from wasskit.trained.vectors import read_features

    probe, title = probe_of(config.linear), f"linear probe after {config.linear.probe_epochs} epochs"
    if config.of_vectors:
        with group(config.machine.device) as device:
            folder = results_of(config, "ssl", "linear.safetensors")
            given = read_features(config, device)
            assert given.second is not None
            found = probed_features(
                given.second, given.first, given.classes, probe, dataset=given.other, seed=config.seed
            )
        report = linear_report(found, Named(given.name, given.name), f"{given.name}, {title}")
    else:
        with evaluation_of(config, "linear.safetensors") as setup:
            folder, train_images = setup.folder, setup.split("train")
            require_labels(train_images, "A linear probe")  # before the test images are looked for
            images = setup.split("test")
            found = probed(setup.model, train_images, images, setup.settings, probe)
        report = linear_report(found, setup.named, f"{images.name}/test, {title}")
    finish(report, folder)
    return {**report.result, "classifier": str(folder / "linear.safetensors")}


command = Command(
    "ssl linear",
    Linear,
    body,
    "Train a linear classifier on the frozen backbone, and test it.\n\n"
    "The published protocol: SGD with rate 0.3, momentum 0.9, weight decay 1e-6, a cosine over 100 epochs, on random "
    "crops and flips; embeddings from files are taken as they are. The accuracy after the last epoch and the best of "
    "all are reported separately.",
    (
        "wasskit ssl linear runs/ssl/byol-digits",
        "wasskit ssl linear runs/ssl/byol-digits --checkpoint best",
        "wasskit ssl linear test.npy --labels test_labels.npy --train train.npy --train-labels train_labels.npy",
    ),
)
