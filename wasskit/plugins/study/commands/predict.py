"""``wasskit study predict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, argument, option
from wasskit.plugins.study.commands.measure import complete_embedded
from wasskit.plugins.study.options import ReportOptions


@dataclass(frozen=True, kw_only=True)
class StudyPredict(ReportOptions):
    """Options of ``wasskit study predict``."""

    runs: tuple[Path, ...] = argument(
        help="Run directories, three or more, or folders of them.", complete=complete_embedded, metavar="RUN..."
    )
    accuracy: str = option(
        "linear_top1", help="What is to be predicted: a metric that every run has of its test images.", panel="Study",
        metavar="METRIC",
    )  # fmt: skip
    recompute: bool = option(
        False, help="Measure every run again; otherwise only those without measures of their last checkpoint.",
        panel="Study", flag="--recompute",
    )  # fmt: skip


def body(config: StudyPredict, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.study.commands.measure import embeddings_of
    from wasskit.plugins.study.prediction import measured_run, prediction_report, probed_runs
    from wasskit.plugins.study.session import run_study

    runs = probed_runs(config.runs, config.accuracy)

    def study(config: StudyPredict, device: Any) -> Any:
        measures = [
            measured_run(
                one, lambda path: embeddings_of(path, str(device))[0], seed=config.seed, device=device,
                recompute=config.recompute,
            )
            for one in runs
        ]  # fmt: skip
        return prediction_report(runs, measures, config.accuracy, seed=config.seed)

    return run_study(config, invocation, f"predict-{config.accuracy}", study)


command = Command(
    "study predict",
    StudyPredict,
    body,
    "Tell which label-free measures predict the accuracy of your runs.\n\n"
    "Spearman's and Kendall's rank correlation of every measure with the accuracy of the probe, over the runs, with "
    "intervals and permutation p-values. The embeddings of a run's test images are measured once and kept in its "
    "label_free.json.",
    (
        "wasskit study predict runs/ssl/a runs/ssl/b runs/ssl/c",
        "wasskit study predict runs/ssl --accuracy knn200_top1 --recompute",
    ),
)
