"""``wasskit mrl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.options import ModelDataOptions
from wasskit.trained.vectors import ModelOrFile, TrainFileOptions

if TYPE_CHECKING:
    import torch

    from wasskit.plugins.mrl.network import MrlModel
    from wasskit.plugins.mrl.trained import Split


@dataclass(frozen=True, kw_only=True)
class MrlEvaluate(ModelDataOptions, TrainFileOptions):
    """Options of ``wasskit mrl evaluate``."""

    trained: ModelOrFile

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
    from wasskit.plugins.mrl.evaluation import between
    from wasskit.plugins.mrl.reports import evaluation_report
    from wasskit.plugins.mrl.trained import KIND, given_splits
    from wasskit.report import finish
    from wasskit.trained.data import results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "evaluation.json", "figures/evaluation.png")
        model, given = None, None
        if config.of_vectors:
            given = given_splits(config, device)
            trained = given.dims
        else:
            model = KIND.load(config.trained.model, device, config.trained.checkpoint)
            trained = model.dims
        dims = config.dims or trained
        try:
            check_dims(dims, trained[-1])
        except ValueError as error:
            raise UserError(f"--dims: {error}.") from None
        test, train = _of_model(model, config, device) if given is None else (given.test, given.train)
        report = evaluation_report(
            model, test, train, dims=between(dims) if config.interpolate else tuple(dims),
            neighbours=config.neighbours, k=config.k, temperature=config.temperature,
            trained_dims=config.dims is None, name=str(config.trained.model),
        )  # fmt: skip
    return finish(report, folder)


def _of_model(model: MrlModel | None, config: MrlEvaluate, device: torch.device) -> tuple[Split, Split | None]:
    """The split that is measured and, where k-NN is and the split is another one, that of training."""
    from wasskit.plugins.mrl.trained import embedded
    from wasskit.trained.data import open_split

    assert model is not None
    test = embedded(model, config, open_split(model, config, config.split), device)
    if not config.neighbours or config.split == "train":
        return test, None
    return test, embedded(model, config, open_split(model, config, "train"), device)


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
