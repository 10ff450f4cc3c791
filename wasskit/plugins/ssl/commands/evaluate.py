"""``wasskit ssl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.ssl.options import EvaluationOptions, NeighbourOptions, ProbeOptions


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluationOptions):
    """Options of ``wasskit ssl evaluate``."""

    neighbours: NeighbourOptions = NeighbourOptions()
    linear: ProbeOptions = ProbeOptions()
    probe: bool = option(True, help="Train the linear probe, by far the longest part.", panel="Evaluation")


def body(config: Evaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.evaluation import Neighbours, bank_and_test
    from wasskit.plugins.ssl.measure import evaluation_of, probe_of
    from wasskit.plugins.ssl.reports import evaluation_report
    from wasskit.report import finish

    probe = probe_of(config.linear) if config.probe else None
    files = ("spectrum-{key}.npz", "figures/spectrum-{key}.png", *(["linear.safetensors"] if probe else []))
    with evaluation_of(config, *files) as setup:
        bank, test = bank_and_test(setup.split)
        neighbours = (
            None if bank is None else Neighbours.among(bank, config.neighbours.k, config.neighbours.temperature)
        )
        report = evaluation_report(
            setup.model, bank, test, setup.settings, neighbours=neighbours, probe=probe, named=setup.named
        )
    finish(report, setup.folder)
    return report.result


command = Command(
    "ssl evaluate",
    Evaluate,
    body,
    "Measure a pretrained model: all columns of the published table, and the spectrum.\n\n"
    "Linear accuracy (last and best epoch) and k-NN accuracy are those of the backbone's features, in percent; W2, L_U "
    "(t = 2), alignment, effective rank and the spectrum are of the normalised projections of the test images.",
    (
        "wasskit ssl evaluate runs/ssl/byol-w2-digits",
        "wasskit ssl evaluate runs/ssl/byol-w2-digits --no-probe --checkpoint best",
    ),
)
