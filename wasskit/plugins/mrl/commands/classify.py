"""``wasskit mrl classify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
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

    def validate(self) -> None:
        super().validate()
        if self.thresholds == ():
            raise UserError("--thresholds: give at least one probability.")


def body(config: MrlClassify, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.mrl.reports import cascade_report
    from wasskit.plugins.mrl.trained import KIND, embedded
    from wasskit.report import finish
    from wasskit.trained.data import open_split, results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "cascade.json", "figures/cascade.png")
        model = KIND.load(config.trained.model, device, config.trained.checkpoint)
        dataset = open_split(model, config, config.split)
        if dataset.classes != model.classes:
            raise UserError(f"{dataset.name} has other classes than the model, whose classifiers it cannot measure.")
        test = embedded(model, config, dataset, device)
        report = cascade_report(model, test, config.thresholds, name=str(config.trained.model))
    return finish(report, folder)


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
