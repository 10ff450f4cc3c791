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
    from wasskit import console
    from wasskit.data.loaders import TrainLoader
    from wasskit.distributed.group import is_main
    from wasskit.plugins.mrl.figures import draw_training
    from wasskit.plugins.mrl.tables import show_dimensions
    from wasskit.plugins.mrl.task import build_task, split_of
    from wasskit.training.session import training_session

    with training_session(config, invocation, name=config.dataset) as session:
        config = session.config
        train, test = split_of(config, "train"), split_of(config, "test")
        for note in dict.fromkeys((*train.notes, *test.notes)):
            console.log(console.escape(note))
        task = build_task(config, train, test, session.device)
        source = TrainLoader(
            train, config.batch_size, device=session.device, seed=config.seed, workers=config.workers
        )
        summary = session.trainer(task, source).fit(resume=session.checkpoint)
        run = session.run
        figures = draw_training(run) if is_main() else []

    show_dimensions(
        f"{config.dataset}/test, {len(test):,} images, after {summary.epochs:g} epochs (percent)",
        task.objective.dims,
        summary.final,
        paper=run.paper,
    )
    rate = f", {summary.samples_per_second:,.0f} images/s" if summary.samples_per_second else ""
    console.log(f"Trained in {summary.wall_seconds:.1f} s{rate}.")
    if not config.json:
        for figure in figures:
            console.result(f"Figure: {console.escape(str(figure))}")
        data = ["--data-root", config.data_root] if config.data_root is not None else []
        console.result("Next:")
        for name in ("evaluate", "retrieve", "classify"):
            console.result(f"  {console.command_line(f'mrl {name}', run.path, *data)}")
    return summary.as_dict() | {"run": str(run.path), "figures": [str(figure) for figure in figures]}


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
