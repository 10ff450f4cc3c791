"""``wasskit ssl linear``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import MeasureOptions, ProbeOptions
from wasskit.trained.vectors import TrainFileOptions, model_or_file


@dataclass(frozen=True, kw_only=True)
class Linear(MeasureOptions, ProbeOptions, TrainFileOptions):
    """Options of ``wasskit ssl linear``."""

    needs_second: ClassVar[bool] = True

    model: Path = model_or_file()


def body(config: Linear, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.ssl.measure import measuring, probe_of
    from wasskit.plugins.ssl.reports import Named, linear_report, probed, probed_features
    from wasskit.report import finish
    from wasskit.trained.files import results_folder
    from wasskit.trained.vectors import read_features

    probe, title = probe_of(config), f"linear probe after {config.probe_epochs} epochs"
    if config.from_file:
        name = config.model.stem
        with group(config.device) as device:
            folder = results_folder(
                config.model, config.output, plugin="ssl", claim=config.claim, files=("linear.safetensors",)
            )  # fmt: skip
            test, train, classes = read_features(config, device)
            assert train is not None
            found = probed_features(train, test, classes, probe, dataset=str(config.train), seed=config.seed)
        report = linear_report(found, Named(name, name), f"{name}, {title}")
    else:
        with measuring(config, "linear.safetensors") as measurement:
            folder, images = measurement.folder, measurement.split("test")
            found = probed(measurement.model, measurement.split("train"), images, measurement.settings, probe)
        report = linear_report(found, measurement.named, f"{images.name}/test, {title}")
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
