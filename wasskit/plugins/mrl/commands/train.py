"""``wasskit mrl train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.mrl.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class MrlTrain(TrainingOptions):
    """Options of ``wasskit mrl train``."""


def body(config: MrlTrain, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.data.loaders import TrainLoader
    from wasskit.plugins.mrl.reports import training_report
    from wasskit.plugins.mrl.task import build_task
    from wasskit.report import conclude, write
    from wasskit.training.session import training_session

    with training_session(config, invocation, name=config.data.dataset) as session:
        config, run = session.config, session.run
        train, test = session.split("train"), session.split("test")
        task = build_task(config, train, test, session.device)
        source = TrainLoader(
            train, config.loop.batch_size, device=session.device, seed=config.run.seed, workers=config.data.workers
        )
        summary = session.trainer(task, source).fit(resume=session.checkpoint)
        report = training_report(config.data.dataset, len(test), summary, run.metrics, run.paper)
        written = write(report, run.path)
    following = [(f"mrl {name}",) for name in ("evaluate", "retrieve", "classify")]
    return conclude(run, summary, report, written, following)


command = Command(
    "mrl train",
    MrlTrain,
    body,
    "Train nested embeddings: one network whose embedding serves at every prefix.\n\n"
    "The objective is alpha sum_k w_k CE_k + lambda sum_k S_k: a classifier on each prefix of the normalised "
    "embedding, and the debiased Sinkhorn divergence between consecutive prefixes of the batch. Evaluated "
    "are top-1, top-5 and mAP@10 (the reciprocal rank of the true class within the first 10) at every "
    "dimension, with the prefixes normalised as in training.",
    (
        "wasskit mrl train",
        "wasskit mrl train --dataset cifar10 --data-root DATA --epochs 30",
        "wasskit mrl train --recipe mrl/imagenet100 --data-root IMAGENET --nproc 4",
        "wasskit mrl train --resume runs/mrl/digits",
    ),
)
