"""``wasskit mrl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.options import ModelDataOptions


@dataclass(frozen=True, kw_only=True)
class MrlEvaluate(ModelDataOptions):
    """Options of ``wasskit mrl evaluate``."""

    dims: tuple[int, ...] | None = option(
        None,
        help="Dimensions to measure the embeddings at.",
        panel="Measures",
        min=1,
        show_default="the trained ones",
    )
    interpolate: bool = option(
        False, help="Also one dimension between each two.", panel="Measures", flag="--interpolate"
    )
    neighbours: bool = option(
        True,
        help="Measure k-NN and retrieval, which needs a pass over the training split too.",
        panel="Measures",
    )
    k: int = option(20, help="Neighbours of k-NN.", panel="Measures", min=1)
    temperature: float = option(
        0.07, help="Votes of k-NN are exp(cosine / temperature).", panel="Measures", above=0
    )

    def validate(self) -> None:
        super().validate()
        if self.dims is not None:
            try:
                check_dims(self.dims)
            except ValueError as error:
                raise UserError(f"--dims: {error}.") from None


def body(config: MrlEvaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.mrl.evaluation import between
    from wasskit.plugins.mrl.reports import evaluation_report
    from wasskit.plugins.mrl.trained import KIND, embedded
    from wasskit.report import finish
    from wasskit.trained.data import open_split, results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "evaluation.json", "figures/evaluation.png")
        model = KIND.load(config.trained.model, device, config.trained.checkpoint)
        dims = config.dims or model.dims
        try:
            check_dims(dims, model.dims[-1])
        except ValueError as error:
            raise UserError(f"--dims: {error}.") from None
        test = embedded(model, config, open_split(model, config, config.split), device)
        train = None
        if config.neighbours and config.split != "train":
            train = embedded(model, config, open_split(model, config, "train"), device)
        report = evaluation_report(
            model, test, train, dims=between(dims) if config.interpolate else tuple(dims),
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
    "training.",
    (
        "wasskit mrl evaluate runs/mrl/digits",
        "wasskit mrl evaluate runs/mrl/digits --interpolate",
        "wasskit mrl evaluate weights.safetensors --dataset cifar10 --data-root DATA --dims 8,12,16",
    ),
)
