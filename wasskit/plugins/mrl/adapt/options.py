"""Options of ``wasskit mrl adapt``. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasskit.config import CommandOptions, argument, option
from wasskit.errors import UserError
from wasskit.options import LoopOptions, OptimizerOptions, RunOptions, complete_local_paths, override
from wasskit.plugins.mrl.options import ObjectiveOptions

Learn = Literal["auto", "neighbours", "labels", "pairs"]


@dataclass(frozen=True, kw_only=True)
class AdaptorOptions(CommandOptions):
    """The network, and what is learned besides the objective of ``mrl train``."""

    network: Literal["residual", "rotation"] = option(
        "residual", help="Residual network on the principal rotation, or a rotation alone.", panel="Model"
    )
    hidden: int = option(512, help="Width of a residual block.", panel="Model", min=1)
    blocks: int = option(1, help="Number of residual blocks.", panel="Model", min=0)
    dropout: float = option(0.3, help="Dropout of hidden units.", panel="Model", min=0, below=1)
    input_dropout: float = option(0.1, help="Dropout of input coordinates.", panel="Model", min=0, below=1)
    cosine_weight: float = option(
        1.0, help="Weight of the cross entropies by cosine (labels).", panel="Method", min=0
    )
    keep_weight: float = option(
        0.0, help="Weight of the neighbours as they were, within the batch (labels).", panel="Method", min=0
    )
    temperature: float | None = option(
        None,
        help="Temperature of cosines in the objective.",
        panel="Method",
        above=0,
        show_default="0.1; 0.05 for neighbours",
    )
    pair_weight: float = option(
        0.0, help="Weight of the similarities of global pairs (neighbours).", panel="Method", min=0
    )
    near: int = option(4, help="Neighbours drawn for each anchor (neighbours).", panel="Method", min=1)
    pool: int = option(
        30, help="Nearest vectors that they are drawn from (neighbours).", panel="Method", min=1
    )

    def validate(self) -> None:
        super().validate()
        if self.near > self.pool:
            raise UserError(f"--near: {self.near} neighbours cannot be drawn from the {self.pool} of --pool.")


@dataclass(frozen=True, kw_only=True)
class AdaptTrainingOptions(AdaptorOptions, LoopOptions, OptimizerOptions, ObjectiveOptions):
    """Everything that one adaptor depends on besides its data."""

    dims: tuple[int, ...] | None = override(
        ObjectiveOptions, "dims", None, help="Nested dimensions, increasing; the largest is the adapted vectors'.",
        show_default="8, 16, 32, ... and the whole width",
    )  # fmt: skip
    wasserstein_weight: float = override(ObjectiveOptions, "wasserstein_weight", 0.0)
    epochs: int = override(LoopOptions, "epochs", 20)
    batch_size: int = override(
        LoopOptions, "batch_size", 256, help="Vectors (anchors, pairs) per step, over all processes."
    )
    channels_last: bool = override(LoopOptions, "channels_last", False, hidden=True)
    optimizer: Literal["sgd", "adam", "adamw", "lars"] = override(OptimizerOptions, "optimizer", "adamw")
    lr: float = override(OptimizerOptions, "lr", 3e-3)
    head_lr: float = option(
        1e-2, help="Learning rate of the classifiers (peak).", panel="Optimisation", above=0
    )
    weight_decay: float = override(OptimizerOptions, "weight_decay", 0.01)
    clip_norm: float | None = override(OptimizerOptions, "clip_norm", 1.0)
    warmup_epochs: int = override(OptimizerOptions, "warmup_epochs", 1)

    def validate(self) -> None:
        super().validate()
        if self.alpha == 0 and self.cosine_weight == 0 and self.wasserstein_weight == 0:
            raise UserError("--alpha 0 and --cosine-weight 0 leave nothing to learn: raise one of them.")


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(RunOptions, AdaptTrainingOptions):
    """The vectors, and what is known about them."""

    train: Path | None = argument(
        None,
        help="Vectors to train on (.npy, N x D); without: the 64 pixels of digits.",
        complete=complete_local_paths,
        metavar="TRAIN",
        saved=True,
    )
    labels: Path | None = option(
        None, help="Labels of the vectors (.npy, N integers).", panel="Data", complete=complete_local_paths
    )
    pairs: Path | None = option(
        None,
        help="Pairs of rows: a CSV of query,document[,relevance].",
        panel="Data",
        complete=complete_local_paths,
    )
    learn: Learn = option(
        "auto",
        help="What to learn from; auto: pairs or labels where they are given, neighbours otherwise.",
        panel="Data",
    )
    test: Path | None = option(
        None, help="Vectors to measure at the end (.npy).", panel="Data", complete=complete_local_paths,
        show_default="the validation part",
    )  # fmt: skip
    test_labels: Path | None = option(
        None, help="Their labels (.npy).", panel="Data", complete=complete_local_paths
    )
    validation: float = option(
        0.1, help="Share of the vectors (of each class, of the queries) kept for validation.", panel="Data",
        above=0, below=1,
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
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

    @property
    def learns(self) -> Literal["neighbours", "labels", "pairs"]:
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
