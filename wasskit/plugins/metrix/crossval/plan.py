"""What a comparison trains: folds of classes, settings to try, the configuration of each training. Nothing is run.

Every draw is a function of the seed and of what is drawn. All losses and modes meet the same folds, initial weights and
orders of batches, and all modes of a loss try the same settings, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wasskit.config import build, recipe_fields, values_of
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.plugins.metrix.commands.train import MetrixTrain
from wasskit.plugins.metrix.crossval.options import CrossvalOptions
from wasskit.plugins.metrix.losses import find_loss
from wasskit.plugins.metrix.pair_loss import Range

LEARNING_RATE = Range(0.1, 10.0, log=True)
"""Factor of ``--lr``."""
MIX_WEIGHT = Range(0.1, 1.0, log=True)
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A loss with a mode."""

    loss: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.loss}/{self.mode}"

    @property
    def folder(self) -> str:
        """A name for files."""
        return f"{self.loss}-{self.mode}"


@dataclass(frozen=True)
class Fold:
    """Numbers of the classes that are trained on, and of those held out for validation; the seed of the training."""

    kept: Sequence[int]
    held: Sequence[int]
    seed: int


def entrants(config: CrossvalOptions) -> list[Entrant]:
    """Every loss with every mode, the baseline first."""
    modes = sorted(config.comparison.modes, key=lambda mode: mode != "baseline")
    return [Entrant(loss, mode) for loss in config.comparison.losses for mode in modes]


def fold_count(config: CrossvalOptions, classes: int) -> int:
    """How many folds so many training classes are divided into, with two classes or more in each."""
    number = config.comparison.folds or min(4, classes // 2)
    if number < 2 or 2 * number > classes:
        raise UserError(
            f"{classes} training classes cannot be divided into {max(2, number)} folds of at least two classes: take "
            "fewer --folds, or a data set with more classes."
        )
    return number


def folds(classes: int, number: int, seed: int, part: int | str) -> list[Fold]:
    """The classes divided at random into folds that differ by one class at most, each held out once.

    Args:
        part: what the folds are for: "tuning", or the number of a repeat.
    """
    order = np.random.default_rng(derive_seed(seed, "folds", part)).permutation(classes)
    held = [sorted(chunk.tolist()) for chunk in np.array_split(order, number)]
    return [
        Fold([c for c in range(classes) if c not in out], out, derive_seed(seed, "fold", part, place) % 2**31)
        for place, out in enumerate(held)
    ]


def settings(loss: str, trial: int, config: CrossvalOptions) -> Settings:
    """The settings of a trial: a learning rate, a weight of the mixed loss, what the loss says it has to tune.

    Those of the first are the defaults; later ones are drawn uniformly (or uniformly in the logarithm) in their ranges.
    Keys are options of ``metrix train``, but for settings of the loss that have none.
    """
    if trial == 0:
        return {"lr": config.optim.lr}
    rng = np.random.default_rng(derive_seed(config.seed, "settings", loss, trial))
    drawn: dict[str, Any] = {
        "lr": config.optim.lr * LEARNING_RATE.at(rng.random()),
        "mix_weight": MIX_WEIGHT.at(rng.random()),
    }
    for name, where in find_loss(loss).search.items():
        drawn[name] = (
            where.at(rng.random()) if isinstance(where, Range) else tuple(each.at(rng.random()) for each in where)
        )
    return drawn


def training(config: CrossvalOptions, entrant: Entrant, chosen: Settings, seed: int) -> MetrixTrain:
    """The configuration of one training, as ``metrix train`` would have it."""
    known = recipe_fields(MetrixTrain)
    shared = {name: value for name, value in values_of(config).items() if name in known}
    options = {name: value for name, value in chosen.items() if name in known}
    own = tuple(f"{name}={value}" for name, value in chosen.items() if name not in known)
    return build(
        MetrixTrain,
        {**shared, **options, "loss": entrant.loss, "mode": entrant.mode, "loss_settings": own, "seed": seed},
    )
