"""``wasskit ssl linear``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import MeasureOptions, ProbeOptions


@dataclass(frozen=True, kw_only=True)
class Linear(MeasureOptions, ProbeOptions):
    """Options of ``wasskit ssl linear``."""


def body(config: Linear, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import is_main
    from wasskit.plugins.ssl.measure import measuring
    from wasskit.plugins.ssl.probe import probe
    from wasskit.plugins.ssl.results import paper_of, record, show_metrics

    with measuring(config, "linear.safetensors") as measurement:
        metrics, path = probe(measurement, config)
        if is_main():
            record(measurement.folder, measurement.key, metrics)
    title = f"{measurement.dataset}/test, linear probe after {config.probe_epochs} epochs (percent)"
    show_metrics(title, {config.model.name: metrics}, paper_of(config.model))
    if not config.json:
        console.result(
            f"Best of all epochs: {metrics['linear_best_top1']:.2f} (epoch {metrics['linear_best_epoch']})."
        )
        console.result(f"Classifier: {console.escape(str(path))}")
    return metrics | {"classifier": str(path)}


command = Command(
    "ssl linear",
    Linear,
    body,
    "Train a linear classifier on the frozen backbone, and test it.\n\n"
    "The published protocol: SGD with rate 0.3, momentum 0.9, weight decay 1e-6, a cosine over 100 epochs, on random "
    "crops and flips. The accuracy after the last epoch and the best of all are reported separately.",
    ("wasskit ssl linear runs/ssl/byol-digits", "wasskit ssl linear runs/ssl/byol-digits --checkpoint best"),
)
