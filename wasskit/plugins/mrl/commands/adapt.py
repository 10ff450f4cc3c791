"""``wasskit mrl adapt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasskit.config import Command, Invocation
from wasskit.plugins.mrl.adapt.options import AdaptOptions

if TYPE_CHECKING:
    from wasskit.plugins.mrl.adapt.data import Vectors


@dataclass(frozen=True, kw_only=True)
class MrlAdapt(AdaptOptions):
    """Options of ``wasskit mrl adapt``."""


def body(config: MrlAdapt, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.plugins.mrl.adapt.blending import with_blend
    from wasskit.plugins.mrl.adapt.report import compare, read_vectors_of
    from wasskit.plugins.mrl.adapt.task import build_adapt_task, divide
    from wasskit.report import tell, write
    from wasskit.training.cadence import Cadence
    from wasskit.training.session import training_session
    from wasskit.training.stepper import Updates

    data = _first_read(config)
    name = config.train.stem if config.train is not None else "digits-adapted"
    config = config.resolved()
    with training_session(config, invocation, name=name) as session:
        config = session.config
        chosen, seed = config.adaptor, config.run.seed
        vectors, test = data or read_vectors_of(config)
        parts = divide(vectors, config.learns, config.validation, seed)
        chosen = with_blend(chosen, parts.train, test, session.device, seed=seed, resumed=session.checkpoint)
        task, source = build_adapt_task(chosen, config.learns, parts, session.device, seed=seed)
        cadence = Cadence(
            epochs=chosen.epochs, eval_every=chosen.cadence.eval_every,
            checkpoint_every=config.run.checkpoint_every, log_every=config.run.log_every,
        )  # fmt: skip
        updates = Updates(
            precision=config.machine.precision, accumulate=chosen.cadence.accumulate, clip_norm=chosen.update.clip_norm
        )
        trainer = session.trainer(task, source, cadence=cadence, updates=updates)
        summary = trainer.fit(resume=session.checkpoint).as_dict()
        run = session.run
        report = compare(task, vectors, parts, test, session.device, config)
        final = summary["final"] | report.result["final"]
        content = summary | {"blend": task.model.description["blend"]} | dict(report.result) | {"final": final}
        run.write_summary(content)
        written = write(report, run.path)
    told = tell(report, written)
    console.log(f"Trained in {summary['wall_seconds']:.1f} s.")
    return content | {"run": str(run.path), "figures": told["figures"]}


def _first_read(config: MrlAdapt) -> tuple[Vectors, Vectors | None] | None:
    """The vectors of a new run, read before there is a run directory: a wrong request leaves none behind."""
    from wasskit.plugins.mrl.adapt.report import read_vectors_of

    if config.run.resume is not None or config.run.requeue:
        return None
    return read_vectors_of(config)


command = Command(
    "mrl adapt",
    MrlAdapt,
    body,
    "Make embeddings of any model smaller: vectors in, vectors out whose prefixes serve at every size.\n\n"
    "A small residual network (or a rotation), started at the principal components, learns from labels (the "
    "objective of `train`), from pairs of queries and documents (a ranking loss at every prefix), or from the "
    "vectors alone (their neighbours and similarities, kept at every prefix). A part of the vectors is kept for "
    "validation; the test file is measured at the end only. The table sets raw prefixes, a random rotation and "
    "principal components beside the adapted prefixes, as float32, as bytes (int8) and as bits (binary).",
    (
        "wasskit mrl adapt",
        "wasskit mrl adapt train.npy --labels labels.npy --test test.npy --test-labels test_labels.npy",
        "wasskit mrl adapt train.npy --dims 16,64,256",
        "wasskit mrl adapt train.npy --pairs pairs.csv",
    ),
)
