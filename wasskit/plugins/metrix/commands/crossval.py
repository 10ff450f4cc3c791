"""``wasskit metrix crossval``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.metrix.crossval.options import CrossvalOptions


@dataclass(frozen=True, kw_only=True)
class MetrixCrossval(CrossvalOptions):
    """Options of ``wasskit metrix crossval``."""


def body(config: MetrixCrossval, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.metrix.crossval.reports import crossval_report
    from wasskit.plugins.metrix.crossval.study import open_study
    from wasskit.report import finish

    with group(config.machine.device) as device, open_study(config, invocation, device) as study:
        report = crossval_report(study.protocol, study.results(), study.untrained())
        result = {"run": str(study.run.path), **finish(report, study.run.path)}
        study.run.write_summary(result)
    return result


command = Command(
    "metrix crossval",
    MetrixCrossval,
    body,
    "Compare losses and ways of mixing as a sceptic would: equal tuning, cross-validation, repeats, intervals.\n\n"
    "For every loss and mode the same number of settings (learning rate, weight of the mixed loss, the loss's own) is "
    "tried by cross-validation over class-disjoint folds of the training classes; the best are trained again on every "
    "fold in every repeat. The best epoch of each model is chosen by its own validation classes, and the test classes "
    "are embedded once: scored for each fold's model alone (mean of the folds) and for the joined embeddings of all. "
    "The table has 95 % intervals over the repeats and paired differences to the same loss without mixing.\n\n"
    "The same command goes on with what was interrupted, and with more --losses, --modes or --repeats.",
    (
        "wasskit metrix crossval",
        "wasskit metrix crossval --losses multisimilarity,proxyanchor --modes baseline,embed,feature --repeats 10",
        "wasskit metrix crossval --dataset cub --data-root DATA --backbone timm/tf_efficientnet_lite0 --weights FILE "
        "--frozen",
        "wasskit metrix crossval --recipe metrix/crossval-cub --data-root DATA --weights FILE",
    ),
)
