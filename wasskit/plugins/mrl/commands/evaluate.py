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
    from wasskit import console
    from wasskit.distributed.group import group, is_main
    from wasskit.plugins.mrl.evaluation import between, classify_prefixes, neighbour_metrics
    from wasskit.plugins.mrl.figures import draw_dimensions
    from wasskit.plugins.mrl.metrics import CLASSIFICATION, NEIGHBOURS
    from wasskit.plugins.mrl.tables import show_dimensions, write_result
    from wasskit.plugins.mrl.trained import KIND, embed_split, labels_of, open_split
    from wasskit.trained.files import results_folder

    with group(config.device) as device:
        folder = results_folder(
            config.model, config.output, plugin="mrl", claim=config.claim,
            files=("evaluation.json", "figures/evaluation.png"),
        )  # fmt: skip
        model = KIND.load(config.model, device, config.checkpoint)
        dims = config.dims or model.dims
        try:
            check_dims(dims, model.dims[-1])
        except ValueError as error:
            raise UserError(f"--dims: {error}.") from None
        dims = between(dims) if config.interpolate else tuple(dims)
        dataset = open_split(model, config, config.split)
        features = embed_split(model, config, dataset, device)
        labels = labels_of(features, dataset)
        values: dict[str, float] = {}
        if dataset.classes == model.classes:
            values |= classify_prefixes(model, features.features, labels)
        else:
            console.log(
                f"{dataset.name} has other classes than the model's: its classifiers are not measured."
            )
        k = config.k
        if config.neighbours:
            train = None
            if config.split != "train":
                bank_set = open_split(model, config, "train")
                bank = embed_split(model, config, bank_set, device)
                train = bank.features, labels_of(bank, bank_set)
                if k > len(bank_set):
                    k = len(bank_set)
                    console.log(f"There are {k} training images: k-NN takes them all.")
            values |= neighbour_metrics(
                features.features, labels, dims, train=train, k=k, temperature=config.temperature
            )
        if not values:
            raise UserError("--no-neighbours leaves nothing to measure on a data set of other classes.")

    split = config.split
    metrics = {f"{split}/{name}": value for name, value in values.items()}
    shown = sorted({*dims, *(model.dims if config.dims is None else ())})
    headings = {name: heading for name, heading in (CLASSIFICATION | NEIGHBOURS).items() if name in values}
    result: dict[str, Any] = {
        "model": str(config.model),
        "dataset": dataset.name,
        "split": split,
        "images": len(dataset),
        "dims": shown,
        "protocol": {
            "top1, top5, map10": "classifier of each trained dimension on the normalised prefix; map10 is "
            "the mean reciprocal rank of the true class within the first 10",
            "knn": f"{k} nearest training images, votes exp(cosine / {config.temperature:g})",
            "precision1, retrieval_map10": f"every image of {split} queries all others; by min(R, 10)",
        },
        "metrics": metrics,
    }
    figures = []
    if is_main():
        path = write_result(folder / "evaluation.json", result)
        series = {
            heading: [values.get(f"{name}@{d}", float("nan")) for d in shown]
            for name, heading in headings.items()
        }
        if len(shown) > 1:
            figures.append(
                draw_dimensions(
                    folder / "figures" / "evaluation.png", shown, series, label=f"{dataset.name}/{split} (%)"
                )
            )
        title = f"{dataset.name}/{split}, {len(dataset):,} images (percent)"
        show_dimensions(title, shown, metrics, split=split, headings=headings)
        if not config.json:
            console.result(f"Results: {console.escape(str(path))}")
            for figure in figures:
                console.result(f"Figure: {console.escape(str(figure))}")
    return result | {"figures": [str(figure) for figure in figures]}


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
