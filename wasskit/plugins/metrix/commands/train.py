"""``wasskit metrix train``."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.metrix.options import TrainingOptions

if typing.TYPE_CHECKING:
    from wasskit.data.metric_sets import MetricSplits
    from wasskit.training.records import Summary
    from wasskit.training.run import RunDirectory
    from wasskit.training.session import Session


@dataclass(frozen=True, kw_only=True)
class MetrixTrain(TrainingOptions):
    """Options of ``wasskit metrix train``."""


def body(config: MetrixTrain, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import broadcast_object, is_main
    from wasskit.plugins.metrix.data import load_parts
    from wasskit.plugins.metrix.measure import pixels_percent
    from wasskit.plugins.metrix.reports import training_report
    from wasskit.report import conclude, write
    from wasskit.training.session import training_session

    # Before there is a run directory, so that a data set that is not there leaves none behind.
    parts = load_parts(config) if config.run.resume is None and not config.run.requeue else None
    with training_session(config, invocation, name=config.data.dataset) as session:
        config, run = session.config, session.run
        parts = parts or load_parts(config)
        named = (parts.train, parts.val, parts.test, parts.gallery)
        for note in dict.fromkeys(note for part in named if part is not None for note in part.notes):
            console.log(console.escape(note))
        summary, skipped = _train(session, parts)
        # Records are rank 0's alone.
        name = "baseline" if config.method.mode == "baseline" else f"Metrix/{config.method.mode}"
        rows = {name: broadcast_object(run.metrics() if is_main() else [])}
        if config.compares:
            console.log("The baseline, with the same budget:")
            baseline = _train_baseline(session, parts, invocation)
            rows["baseline"] = broadcast_object(baseline.metrics() if is_main() else [])
        report = training_report(
            config.data.dataset, parts, rows, skipped, run.paper, pixels_percent(parts, config.recalls, session.device)
        )
        run.write_summary({**summary.as_dict(), **report.result})
        written = write(report, run.path)
    return conclude(run, summary, report, written, [("metrix evaluate",), ("metrix search", 0)])


def _train(session: Session[MetrixTrain], parts: MetricSplits) -> tuple[Summary, dict[str, int]]:
    """One training in the session's run directory; its summary, and how many batches mixed nothing, by the reason."""
    from wasskit import console
    from wasskit.plugins.metrix.data import train_loader
    from wasskit.plugins.metrix.task import build_task

    config = session.config
    task = build_task(config, parts, session.device)
    source = train_loader(config, parts.train, session.device)
    try:
        summary = session.trainer(task, source, updates=session.updates(clip_value=config.clip_value)).fit(
            resume=session.checkpoint
        )
    finally:
        source.close()
        for loader in task.loaders.values():
            loader.close()
    trained = config.loop.epochs * source.steps_per_epoch
    for reason, batches in task.skipped.items():
        console.warn(f"{batches} of {trained} batches mixed nothing: {reason}.")
    return summary, dict(task.skipped)


def _train_baseline(session: Session[MetrixTrain], parts: MetricSplits, invocation: Invocation) -> RunDirectory:
    """The same training without mixing, in the folder ``baseline`` of the run; resumed where it was left."""
    from wasskit.config import changed, to_options
    from wasskit.distributed.group import broadcast_object
    from wasskit.training.checkpoint import seed_all
    from wasskit.training.run import RunDirectory
    from wasskit.training.session import Session

    config = changed(session.config, mode="baseline", published=False, compare="no")
    path = session.run.path / "baseline"
    begun = broadcast_object(path.is_dir() and any((path / "checkpoints").glob("last.pt")))
    if begun or broadcast_object((path / "config.toml").is_file()):
        run = RunDirectory.open(path)
    else:
        run = RunDirectory.create(
            path, command=invocation.command, options=to_options(config), seed=config.run.seed, device=session.device,
            argv=invocation.argv,
        )  # fmt: skip
    seed_all(config.run.seed)
    checkpoint = run.checkpoints / "last.pt" if begun else None
    _train(Session(config, session.device, run, checkpoint), parts)
    return run


command = Command(
    "metrix train",
    MetrixTrain,
    body,
    "Train an embedding for retrieval of unseen classes, with mixed pairs (Metrix) or without.\n\n"
    "The objective is the clean metric loss plus w times the same loss of mixed pairs, whose labels are mixed "
    "alike. Training and test classes are disjoint; sets without such a split train on every other class."
    " Reported are the last epoch, the best on held-out training classes (--validation) and the "
    "best on the test set, which is what published tables show.",
    (
        "wasskit metrix train",
        "wasskit metrix train --dataset cub --data-root DATA --image-size 64 --in-memory --backbone resnet18",
        "wasskit metrix train --recipe metrix/cub-contrastive-feature --data-root DATA",
        "wasskit metrix train --loss proxyanchor --mode embed --validation 0.2",
    ),
)
