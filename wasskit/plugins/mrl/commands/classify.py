"""``wasskit mrl classify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.plugins.mrl.options import ModelOrFileOptions
from wasskit.trained.vectors import TrainFileOptions

if TYPE_CHECKING:
    import torch

    from wasskit.report import Report


@dataclass(frozen=True, kw_only=True)
class MrlClassify(ModelOrFileOptions, TrainFileOptions):
    """Options of ``wasskit mrl classify``."""

    needs_second: ClassVar[bool] = True

    dims: tuple[int, ...] | None = option(
        None, help="Prefixes of a file that classifiers are trained of.", panel="Measures", min=1,
        show_default="8, 16, 32, ... and the whole width; those of an adaptor",
    )  # fmt: skip
    ridge: float = option(
        1e-5, help="Weight of half the squared weights beside the mean cross entropy, in classifiers of a file.",
        panel="Measures", min=0,
    )  # fmt: skip
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
        if self.dims is not None and not self.of_vectors:
            raise UserError(f"--dims belongs to a file of embeddings: {self.trained.model} has classifiers of its own.")


def body(config: MrlClassify, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.report import finish
    from wasskit.trained.data import results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "cascade.json", "figures/cascade.png")
        report = (_of_vectors if config.of_vectors else _of_model)(config, device)
    return finish(report, folder)


def _of_model(config: MrlClassify, device: torch.device) -> Report:
    """By the classifiers that the model was trained with."""
    import torch

    from wasskit.plugins.mrl.reports import cascade_report
    from wasskit.plugins.mrl.trained import KIND, embedded
    from wasskit.trained.data import open_split

    model = KIND.load(config.trained.model, device, config.trained.checkpoint)
    dataset = open_split(model, config, config.split)
    if dataset.classes != model.classes:
        raise UserError(f"{dataset.name} has other classes than the model, whose classifiers it cannot measure.")
    test, classifiers = embedded(model, config, dataset, device), model.objective.classifiers
    with torch.no_grad():
        logits = classifiers(test.embeddings)
    name = str(config.trained.model)
    return cascade_report(logits, test, model.dims, config.thresholds, tied=classifiers.tied, name=name)


def _of_vectors(config: MrlClassify, device: torch.device) -> Report:
    """By logistic regressions of the training vectors' prefixes."""
    import torch

    from wasskit.plugins.mrl.evaluation import prefix_logits
    from wasskit.plugins.mrl.reports import cascade_report
    from wasskit.plugins.mrl.trained import given_splits

    given = given_splits(config, device, dims=config.dims)
    test, train, dims = given.test, given.train, given.dims
    assert train is not None
    unseen = int((~torch.isin(test.labels, train.labels)).sum())
    said = [f"{unseen:,} of {len(test):,} vectors are of classes that {given.other} lacks."] if unseen else []
    logits = prefix_logits(train.embeddings, train.labels, test.embeddings, dims, ridge=config.ridge)
    return cascade_report(logits, test, dims, config.thresholds, name=str(config.trained.model), remarks=said)


command = Command(
    "mrl classify",
    MrlClassify,
    body,
    "Classify by growing prefixes: accuracy against cost.\n\n"
    "An image is classified with the shortest prefix whose likeliest class reaches a threshold; each "
    "threshold is one trade-off between accuracy and the mean number of coordinates used. Classifiers of unit "
    "embeddings, trained with smoothed labels, are less sure than they are right: without --thresholds these "
    "come from the probabilities that occur. Of embeddings from files, or of a run of `adapt`, each prefix is "
    "given a logistic regression of the training vectors.",
    (
        "wasskit mrl classify runs/mrl/digits",
        "wasskit mrl classify runs/mrl/digits --thresholds 0.4,0.5",
        "wasskit mrl classify test.npy --labels test_labels.npy --train train.npy --train-labels train_labels.npy",
    ),
)
