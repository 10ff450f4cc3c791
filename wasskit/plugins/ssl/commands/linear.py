"""``wasskit ssl linear``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import EvaluationOptions, ProbeOptions


@dataclass(frozen=True, kw_only=True)
class Linear(EvaluationOptions):
    """Options of ``wasskit ssl linear``."""

    linear: ProbeOptions = ProbeOptions()


def body(config: Linear, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.evaluation import require_labels
    from wasskit.plugins.ssl.measure import evaluation_of, probe_of
    from wasskit.plugins.ssl.reports import linear_report
    from wasskit.report import finish

    with evaluation_of(config, "linear.safetensors") as setup:
        train = setup.split("train")
        require_labels(train, "A linear probe")
        report = linear_report(
            setup.model, train, setup.split("test"), setup.settings, probe_of(config.linear),
            setup.named,
        )  # fmt: skip
    finish(report, setup.folder)
    return {**report.result, "classifier": str(setup.folder / "linear.safetensors")}


command = Command(
    "ssl linear",
    Linear,
    body,
    "Train a linear classifier on the frozen backbone, and test it.\n\n"
    "The published protocol: SGD with rate 0.3, momentum 0.9, weight decay 1e-6, a cosine over 100 epochs, on random "
    "crops and flips. The accuracy after the last epoch and the best of all are reported separately.",
    ("wasskit ssl linear runs/ssl/byol-digits", "wasskit ssl linear runs/ssl/byol-digits --checkpoint best"),
)
