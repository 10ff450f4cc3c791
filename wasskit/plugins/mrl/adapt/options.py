"""Options of ``wasskit mrl adapt``. Free of torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wasskit.candidates import complete_local_paths
from wasskit.config import OptionGroup, RecipeOptions, argument, group, option
from wasskit.errors import UserError
from wasskit.options import CadenceOptions, RunOptions, TrainingDeviceOptions, UpdateOptions
from wasskit.plugins.mrl.options import ObjectiveOptions

if TYPE_CHECKING:
    from typing_extensions import Self

Learns = Literal["neighbours", "labels", "pairs"]

ADAPTED = "adapted"
"""What tables call the vectors that an adaptor gives, beside those that it is compared with."""
COMPRESSION = {"nn1": "nn1", "recall@1": "precision1", "recall@10": "recall10", "overlap10": "overlap10"}
"""Columns of the table of an adaptor's prefixes -> metrics at a dimension."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "labels": {
        "lr": 3e-3, "epochs": 15, "batch_size": 256, "dropout": 0.3, "input_dropout": 0.1, "temperature": 0.1,
        "start": "discriminant",
    },
    "neighbours": {
        "lr": 1e-3, "epochs": 8, "batch_size": 128, "dropout": 0.1, "input_dropout": 0.0, "temperature": 0.05,
        "blend": 1.0, "start": "principal",
    },
    "pairs": {
        "lr": 1e-3, "epochs": 15, "batch_size": 256, "dropout": 0.3, "input_dropout": 0.1, "temperature": 0.1,
        "blend": 1.0, "start": "principal",
    },
}  # fmt: skip
"""What an option stands for that depends on what is learned from."""

_LABELS, _NEIGHBOURS = {"learn": ("labels",)}, {"learn": ("neighbours",)}
_LABELS_OR_NEIGHBOURS = {"learn": ("labels", "neighbours")}


def _depends(name: str) -> str:
    return ", ".join(f"{values[name]:g} ({learns})" for learns, values in DEFAULTS.items())


@dataclass(frozen=True, kw_only=True)
class AdaptTrainingOptions(OptionGroup):
    """Everything that one adaptor depends on besides its data. None stands for ``DEFAULTS``."""

    objective: ObjectiveOptions = group(
        ObjectiveOptions(wasserstein_weight=0.0),
        help={"dims": "Nested dimensions, increasing; the largest is the adapted vectors'."},
        show_default={"dims": "8, 16, 32, ... and the whole width"},
        counts_with={
            **dict.fromkeys(("alpha", "label_smoothing", "ce_weights", "tied"), _LABELS),
            **dict.fromkeys(("sinkhorn", "wasserstein_points"), _LABELS),
            **dict.fromkeys(("wasserstein_weight", "beta", "blur"), _LABELS_OR_NEIGHBOURS),
        },
    )
    update: UpdateOptions = UpdateOptions(optimizer="adamw", weight_decay=0.01, clip_norm=1.0, warmup_epochs=1)
    cadence: CadenceOptions = CadenceOptions()
    network: Literal["residual", "rotation"] = option(
        "residual", help="Residual network on the principal rotation, or a rotation alone.", panel="Model"
    )
    start: Literal["principal", "discriminant", "random"] | None = option(
        None, help="What training starts from: principal axes; those that tell classes apart, where they serve classes "
        "left out (labels); or a random rotation.", panel="Model",
        show_default="discriminant (labels), principal (neighbours, pairs)",
    )  # fmt: skip
    hidden: int = option(512, help="Width of a residual block.", panel="Model", min=1)
    blocks: int = option(1, help="Number of residual blocks.", panel="Model", min=0)
    dropout: float | None = option(
        None, help="Dropout of hidden units.", panel="Model", min=0, below=1, show_default=_depends("dropout")
    )
    input_dropout: float | None = option(
        None, help="Dropout of input coordinates.", panel="Model", min=0, below=1,
        show_default=_depends("input_dropout"),
    )  # fmt: skip
    blend: float | None = option(
        None, help="Where the adaptor lies between its start (0) and what it learned (1), by its weights.",
        panel="Model", min=0, max=1, show_default="1 (neighbours, pairs), chosen by a first training (labels)",
    )  # fmt: skip
    classes: Literal["auto", "known", "new"] = option(
        "auto", help="Whose classes the vectors to come are of: those of the labels (known), or others too (new), "
        "which bear less of what labels teach; auto: as --test-labels say, new without.", panel="Model", absent="new",
        counts_with=_LABELS,
    )  # fmt: skip
    cosine_weight: float = option(
        1.0, help="Weight of the cross entropies by cosine.", panel="Method", min=0, counts_with=_LABELS
    )
    keep_weight: float = option(
        0.1, help="Weight of the neighbours as they were, within the batch.", panel="Method", min=0, counts_with=_LABELS
    )
    temperature: float | None = option(
        None, help="Temperature of cosines in the objective.", panel="Method", above=0,
        show_default=_depends("temperature"),
    )  # fmt: skip
    pair_weight: float = option(
        0.0, help="Weight of the similarities of global pairs.", panel="Method", min=0, counts_with=_NEIGHBOURS
    )
    centre: float = option(
        0.5, help="Share of the mean vector that is taken off before similarities are compared.",
        panel="Method", min=0, max=1, absent=0.0, counts_with=_NEIGHBOURS,
    )  # fmt: skip
    near: int = option(4, help="Neighbours drawn for each anchor.", panel="Method", min=1, counts_with=_NEIGHBOURS)
    pool: int = option(
        30, help="Nearest vectors that they are drawn from.", panel="Method", min=1, counts_with=_NEIGHBOURS
    )
    epochs: int | None = option(
        None, help="Passes over the training set.", panel="Optimisation", min=1, show_default=_depends("epochs")
    )
    batch_size: int | None = option(
        None, help="Vectors (anchors, pairs) per step, over all processes.", panel="Optimisation", min=1, short="-b",
        show_default=_depends("batch_size"),
    )  # fmt: skip
    lr: float | None = option(
        None, help="Learning rate (peak).", panel="Optimisation", above=0, show_default=_depends("lr")
    )
    head_lr: float = option(
        1e-2, help="Learning rate of the classifiers (peak).", panel="Optimisation", above=0, counts_with=_LABELS
    )

    def validate(self) -> None:
        super().validate()
        if self.near > self.pool:
            raise UserError(f"--near: {self.near} neighbours cannot be drawn from the {self.pool} of --pool.")

    def resolved(self, learns: Learns) -> Self:
        """With a value for everything that depends on what is learned from."""
        objective = self.objective
        transport = objective.wasserstein_weight and not objective.has_one
        if learns == "labels" and not (objective.alpha or self.cosine_weight or transport or self.keep_weight):
            raise UserError("--alpha 0 and --cosine-weight 0 leave nothing to learn: raise one of them.")
        if self.start == "discriminant" and (learns != "labels" or self.network == "rotation"):
            raise UserError("--start discriminant needs labels to learn from, and the residual network.")
        defaults = DEFAULTS[learns] | ({"start": "principal"} if self.network == "rotation" else {})
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(RecipeOptions):
    """The vectors, and what is known about them."""

    adaptor: AdaptTrainingOptions = AdaptTrainingOptions()
    run: RunOptions = RunOptions()
    machine: TrainingDeviceOptions = TrainingDeviceOptions()

    train: Path | None = argument(
        None,
        help="Vectors (N, D) to train on (.npy, .npz:KEY, .safetensors:KEY, .parquet:COLUMN, .csv); without: the 64 "
        "pixels of digits.",
        complete=complete_local_paths,
        metavar="TRAIN",
        saved=True,
    )
    labels: Path | None = option(
        None,
        help="Labels of the vectors (.npy, .csv:COLUMN, .parquet:COLUMN, .txt).",
        panel="Data",
        complete=complete_local_paths,
    )
    pairs: Path | None = option(
        None, help="Pairs of rows: a CSV of query,document[,relevance].", panel="Data", complete=complete_local_paths
    )
    learn: Literal["auto", "neighbours", "labels", "pairs"] = option(
        "auto",
        help="What to learn from; auto: pairs or labels where they are given, neighbours otherwise.",
        panel="Data",
    )
    test: Path | None = option(
        None, help="Vectors to measure at the end.", panel="Data", complete=complete_local_paths,
        show_default="the validation part",
    )  # fmt: skip
    test_labels: Path | None = option(None, help="Their labels.", panel="Data", complete=complete_local_paths)
    validation: float = option(
        0.1, help="Share of the vectors (of each class, of the queries) kept for validation.", panel="Data",
        above=0, below=1,
    )  # fmt: skip

    codes: tuple[Literal["float32", "int8", "binary"], ...] = option(
        ("float32", "int8", "binary"), help="Codes of the prefixes that are measured at the end.", panel="Measures"
    )
    baselines: bool = option(
        True, help="Also measure raw prefixes, a random rotation and principal components.", panel="Measures"
    )
    interpolate: bool = option(
        False, help="Also measure one dimension between each two.", panel="Measures", flag="--interpolate"
    )

    def validate(self) -> None:
        super().validate()
        if not self.codes:
            raise UserError("--codes: name at least one of float32, int8, binary.")
        if self.learn in ("labels", "pairs") and self.train is not None and getattr(self, self.learn) is None:
            raise UserError(f"--learn {self.learn} needs the file of --{self.learn}.")
        if self.train is None and any((self.labels, self.pairs, self.test, self.test_labels)):
            raise UserError("--labels, --pairs and --test belong to a file of vectors: name it first.")
        if self.train is None and self.learn == "pairs":
            raise UserError("--learn pairs needs vectors and the file of --pairs.")
        if self.labels is not None and self.pairs is not None and self.learn == "auto":
            raise UserError("--labels and --pairs: say by --learn which of them to learn from.")
        if self.test_labels is not None and self.test is None:
            raise UserError("--test-labels belong to the vectors of --test.")

    def in_effect(self, name: str) -> Any:
        return self.learns if name == "learn" else super().in_effect(name)

    def resolved(self) -> Self:
        """With a value for everything that depends on what is learned from."""
        return dataclasses.replace(self, adaptor=self.adaptor.resolved(self.learns))

    @property
    def learns(self) -> Learns:
        """What is learned from."""
        if self.learn != "auto":
            return self.learn
        if self.pairs is not None:
            return "pairs"
        return "labels" if self.labels is not None or self.train is None else "neighbours"


def adapted_dims(width: int) -> tuple[int, ...]:
    """8, 16, 32, ... below the width, and the width."""
    dims = [8]
    while dims[-1] * 2 < width:
        dims.append(dims[-1] * 2)
    return (*(d for d in dims if d < width), width)
