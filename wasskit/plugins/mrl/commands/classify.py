"""``wasskit mrl classify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.mrl.options import ModelDataOptions


@dataclass(frozen=True, kw_only=True)
class MrlClassify(ModelDataOptions):
    """Options of ``wasskit mrl classify``."""

    thresholds: tuple[float, ...] | None = option(
        None,
        help="Probabilities of the likeliest class from which a prefix decides.",
        panel="Measures",
        above=0,
        max=1,
        show_default="deciles of the probabilities that occur",
    )


def body(config: MrlClassify, invocation: Invocation) -> Mapping[str, Any]:
    from dataclasses import asdict

    import torch

    from wasskit import console
    from wasskit.distributed.group import group, is_main
    from wasskit.errors import UserError
    from wasskit.plugins.mrl.adaptive import cascade_outcome, classifier_outcomes, occurring_thresholds
    from wasskit.plugins.mrl.figures import draw_costs
    from wasskit.plugins.mrl.metrics import METRICS
    from wasskit.plugins.mrl.tables import show_costs, write_result
    from wasskit.plugins.mrl.trained import KIND, embed_split, labels_of, open_split
    from wasskit.trained.files import results_folder

    if config.thresholds == ():
        raise UserError("--thresholds: give at least one probability.")
    with group(config.device) as device:
        folder = results_folder(
            config.model, config.output, plugin="mrl", claim=config.claim,
            files=("cascade.json", "figures/cascade.png"),
        )  # fmt: skip
        model = KIND.load(config.model, device, config.checkpoint)
        dataset = open_split(model, config, config.split)
        if dataset.classes != model.classes:
            raise UserError(
                f"{dataset.name} has other classes than the model, whose classifiers it cannot measure."
            )
        features = embed_split(model, config, dataset, device)
        labels = labels_of(features, dataset)
        with torch.no_grad():
            logits = model.objective.classifiers(features.features)
        single = classifier_outcomes(logits, labels, model.dims)
        tied = model.objective.classifiers.tied
        cascades = [
            cascade_outcome(logits, labels, model.dims, threshold, tied=tied)
            for threshold in sorted(config.thresholds or occurring_thresholds(logits))
        ]

    outcomes = [*single, *cascades]
    result: dict[str, Any] = {
        "model": str(config.model),
        "dataset": dataset.name,
        "split": config.split,
        "images": len(dataset),
        "protocol": "the shortest prefix whose likeliest class reaches the threshold decides; "
        "operations: multiply-adds of the classifiers that were tried, per image",
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    figures = []
    if is_main():
        path = write_result(folder / "cascade.json", result)
        figures.append(
            draw_costs(
                folder / "figures" / "cascade.png",
                {
                    "one dimension": [(o.metrics["mean_dim"], o.metrics["top1"], "") for o in single],
                    "cascade, by threshold": [
                        (o.metrics["mean_dim"], o.metrics["top1"], o.text) for o in cascades
                    ],
                },
                cost="mean number of coordinates used",
                label="top-1 (%)",
                title=f"{dataset.name}/{config.split}",
            )
        )
        show_costs(
            f"{dataset.name}/{config.split}, {len(dataset):,} images",
            outcomes,
            METRICS.headings("top1", "mean_dim"),
            "dimension or threshold",
            unit=("kFLOPs per image", 1e3),
            reference=single[-1],
        )
        if not config.json:
            console.result(f"Results: {console.escape(str(path))}")
            for figure in figures:
                console.result(f"Figure: {console.escape(str(figure))}")
    return result | {"figures": [str(figure) for figure in figures]}


command = Command(
    "mrl classify",
    MrlClassify,
    body,
    "Classify by growing prefixes: accuracy against cost.\n\n"
    "An image is classified with the shortest prefix whose likeliest class reaches a threshold; each "
    "threshold is one trade-off between accuracy and the mean number of coordinates used. Classifiers of unit "
    "embeddings, trained with smoothed labels, are less sure than they are right: without --thresholds these "
    "come from the probabilities that occur.",
    ("wasskit mrl classify runs/mrl/digits", "wasskit mrl classify runs/mrl/digits --thresholds 0.4,0.5"),
)
