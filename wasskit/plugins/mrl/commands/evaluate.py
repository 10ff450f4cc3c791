"""``wasskit mrl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.options import ModelOrFileOptions
from wasskit.trained.vectors import TrainFileOptions


@dataclass(frozen=True, kw_only=True)
class MrlEvaluate(ModelOrFileOptions, TrainFileOptions):
    """Options of ``wasskit mrl evaluate``."""

    dims: tuple[int, ...] | None = option(
        None,
        help="Dimensions to measure the embeddings at.",
        panel="Measures",
        min=1,
        show_default="the trained ones; of a file 8, 16, 32, ... and the whole width",
    )
    interpolate: bool = option(
        False, help="Also one dimension between each two.", panel="Measures", flag="--interpolate"
    )
    neighbours: bool = option(
        True, help="Measure k-NN and retrieval, which needs a pass over the training split too.", panel="Measures"
    )
    k: int = option(20, help="Neighbours of k-NN.", panel="Measures", min=1)
    temperature: float = option(0.07, help="Votes of k-NN are exp(cosine / temperature).", panel="Measures", above=0)

    def validate(self) -> None:
        super().validate()
        if self.dims is not None:
            try:
                check_dims(self.dims)
            except ValueError as error:
                raise UserError(f"--dims: {error}.") from None
        if self.of_vectors and not self.neighbours:
            raise UserError("--no-neighbours leaves nothing to measure of embeddings: they have no classifiers.")


def body(config: MrlEvaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.mrl.reports import evaluation_report
    from wasskit.plugins.mrl.trained import given_splits
    from wasskit.report import finish
    from wasskit.trained.data import results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "evaluation.json", "figures/evaluation.png")
        voting = "train" if config.neighbours and config.split != "train" else None
        given = given_splits(config, device, voting, dims=config.dims)
        report = evaluation_report(
            given.model, given.test, given.train, dims=given.dims, interpolate=config.interpolate,
            neighbours=config.neighbours, k=config.k, temperature=config.temperature,
            trained_dims=config.dims is None, name=str(config.trained.model),
        )  # fmt: skip
    return finish(report, folder)


command = Command(
    "mrl evaluate",
    MrlEvaluate,
    body,
    "Measure a trained model at every dimension, from one pass over the data.\n\n"
    "Top-1, top-5 and mAP@10 (the reciprocal rank of the true class within the first 10) by the nested "
    "classifiers; on the embeddings k-NN accuracy against the training split, and precision@1 and mAP@10 of "
    "retrieval within the split, also at dimensions between the trained ones. Prefixes are normalised as in "
    "training. Embeddings from a file, or of a run of `adapt`, have no classifiers.",
    (
        "wasskit mrl evaluate runs/mrl/digits",
        "wasskit mrl evaluate runs/mrl/digits --interpolate",
        "wasskit mrl evaluate test.npy --labels test_labels.npy --train train.npy --train-labels train_labels.npy",
        "wasskit mrl evaluate runs/mrl/train",
        "wasskit mrl evaluate runs/mrl/train --vectors more.npy --labels more_labels.npy",
        "wasskit mrl evaluate weights.safetensors --dataset cifar10 --data-root DATA --dims 8,12,16",
    ),
)
