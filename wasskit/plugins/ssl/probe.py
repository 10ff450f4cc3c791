"""The linear probe as the commands run it: with progress, and the classifier kept beside the results."""

from __future__ import annotations

from pathlib import Path

from wasskit import console
from wasskit.distributed.group import is_main
from wasskit.evaluation.embedding import Features
from wasskit.evaluation.linear import ProbeProtocol
from wasskit.models.export import save_weights
from wasskit.plugins.ssl.evaluation import Metrics, linear_accuracy, require_labels
from wasskit.plugins.ssl.measure import Measurement
from wasskit.plugins.ssl.options import ProbeOptions


def probe(
    measurement: Measurement, options: ProbeOptions, known: Features | None = None
) -> tuple[Metrics, Path]:
    """Train and test the probe; save the classifier. ``known``: the features of the test images, if they are there."""
    model = measurement.model
    backbone = model.encoder.backbone
    every = max(1, options.probe_epochs // 10)

    def report(epoch: int, top1: float) -> None:
        if epoch % every == 0:
            console.log(f"linear probe, epoch {epoch}/{options.probe_epochs}: {top1:.2f} %")

    train = measurement.split("train")
    require_labels(train, "A linear probe")
    test = measurement.split("test")
    metrics, classifier = linear_accuracy(
        backbone,
        train,
        test,
        model.views,
        ProbeProtocol(options.probe_epochs, options.probe_lr),
        measurement.settings,
        num_features=backbone.num_features,
        probe_batch_size=options.probe_batch_size,
        known=known,
        after_epoch=report,
    )
    path = measurement.folder / "linear.safetensors"
    if is_main():
        header = {"kind": "ssl-linear", "dataset": measurement.dataset, "classes": list(train.classes)}
        save_weights(path, classifier, header)
    return metrics, path
