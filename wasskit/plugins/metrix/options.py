"""Options that the commands of ``wasskit metrix`` share. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wasskit.candidates import complete_datasets
from wasskit.config import OptionGroup, RecipeOptions, option
from wasskit.errors import UserError
from wasskit.options import (
    BackboneOptions,
    DataOptions,
    LoopOptions,
    OptimizerOptions,
    RunOptions,
    TrainingDeviceOptions,
)
from wasskit.plugins.metrix.losses import build_loss, loss_names, parse_settings
from wasskit.trained import options as trained

RECALLS = {"sop": (1, 10, 100, 1000), "inshop": (1, 10, 20, 30, 40, 50)}
"""The K at which recall is published for a data set; elsewhere 1, 2, 4, 8."""


def published_recalls(dataset: str) -> tuple[int, ...]:
    """The K at which recall is usually given for a data set."""
    return RECALLS.get(dataset, (1, 2, 4, 8))


@dataclass(frozen=True, kw_only=True)
class MethodOptions(OptionGroup):
    """The objective: clean loss + w * mixed loss."""

    loss: str = option("contrastive", help="Metric loss.", panel="Method", choices=loss_names())
    mode: Literal["baseline", "input", "feature", "embed"] = option(
        "feature", help="What is mixed: nothing, images, last feature maps, embeddings.", panel="Method"
    )
    mix_weight: float = option(0.4, help="Weight w of the mixed loss.", panel="Method", min=0)
    alpha: float = option(2.0, help="lambda is drawn from Beta(alpha, alpha).", panel="Method", above=0)
    pairs: Literal["both", "positive-negative", "anchor-negative"] = option(
        "both", help="Pairs that are mixed; `both`: one of the two kinds at random, each step.", panel="Method"
    )
    hardest: int | None = option(
        None,
        help="Mix with this many of the negatives nearest to the anchor.",
        panel="Method",
        min=1,
        show_default="all; 1 in input mode",
    )
    max_triples: int | None = option(
        None, help="Draw so many mixed pairs a step, at most.", panel="Method", min=1, show_default="all"
    )
    published: bool = option(
        False,
        help="Reproduce the authors' code where it departs from their paper (contrastive loss only).",
        panel="Method",
        flag="--published",
    )
    distance: Literal["euclidean", "cosine"] = option(
        "euclidean",
        help="Contrastive: distances and means of non-zero terms, as published, or the paper's formula with cosine "
        "similarities and sums.",
        panel="Method",
    )
    margin: float = option(
        0.5,
        help="Contrastive: distance from which, or cosine up to which, negatives are left alone.",
        panel="Method",
        above=0,
        max=2,
    )
    similarity_scales: tuple[float, ...] = option(
        (18.0, 75.0, 0.77), help="Multi-similarity: beta, gamma and the threshold m.", panel="Method", above=0
    )
    proxy_scales: tuple[float, ...] = option(
        (32.0, 0.1), help="Proxy-anchor: scale alpha and margin delta.", panel="Method", min=0
    )
    loss_settings: tuple[str, ...] = option(
        (), help="Settings of a loss that have no option of their own: name=number,...", panel="Method"
    )
    embedding_size: int | None = option(
        None, help="Dimension of the embedding.", panel="Model", min=1, show_default="512; 64 with the tiny backbone"
    )
    freeze_batch_norm: bool = option(False, help="Keep batch norm at the statistics it starts with.", panel="Model")

    def validate(self) -> None:
        super().validate()
        for name, values, count in (
            ("similarity-scales", self.similarity_scales, 3),
            ("proxy-scales", self.proxy_scales, 2),
        ):
            if len(values) != count:
                raise UserError(f"--{name} takes {count} numbers separated by commas, not {len(values)}.")
        if self.proxy_scales[0] == 0:
            raise UserError("--proxy-scales: with a scale alpha of 0 the loss is constant; choose one above 0.")
        if self.published and self.loss != "contrastive":
            raise UserError(
                f"--published: the authors' code trains the contrastive loss only, not {self.loss}; leave it out."
            )
        if self.distance == "cosine":
            if self.loss != "contrastive":
                raise UserError(
                    f"--distance cosine: only the contrastive loss has two forms, not {self.loss}; leave it out."
                )
            if self.published:
                raise UserError(
                    "--published: the authors' code compares Euclidean distances; leave out --distance cosine or "
                    "--published."
                )
            if self.margin >= 1:
                raise UserError(
                    f"--margin {self.margin:g}: no cosine is larger, so every negative would be left alone; choose "
                    "less than 1 with --distance cosine."
                )
        if self.loss_settings:
            try:
                build_loss(self.loss, {"num_classes": 1, "embedding_dim": 1}, parse_settings(self.loss_settings))
            except ValueError as error:
                raise UserError(f"--loss-settings: {error}.") from None
        if self.loss == "proxyanchor" and self.mode in ("input", "feature") and self.pairs == "anchor-negative":
            raise UserError(
                f"--pairs anchor-negative: proxies have no image and no feature map to mix in {self.mode} mode; "
                "use --mode embed or --pairs positive-negative."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RecipeOptions):
    """Everything one training of ``wasskit metrix`` depends on."""

    method: MethodOptions = MethodOptions()
    data: DataOptions = DataOptions()
    loop: LoopOptions = LoopOptions(epochs=10, batch_size=100)
    optim: OptimizerOptions = OptimizerOptions(optimizer="adam", lr=1e-3, weight_decay=1e-4)
    model: BackboneOptions = BackboneOptions()
    run: RunOptions = RunOptions()
    machine: TrainingDeviceOptions = TrainingDeviceOptions()
    lr_decay_step: int | None = option(
        None,
        help="Epochs after which the learning rate drops, again and again.",
        panel="Optimisation",
        min=1,
        show_default="a third of the epochs",
    )
    lr_decay_gamma: float = option(
        0.3, help="Factor of each drop of the learning rate.", panel="Optimisation", above=0, max=1
    )
    head_epochs: int = option(
        0, help="First epochs, in which only the embedding layer and the proxies learn.", panel="Optimisation", min=0
    )
    proxy_lr_factor: float = option(
        100.0, help="Learning rate of the proxies over that of the network.", panel="Optimisation", above=0
    )
    clip_value: float | None = option(10.0, help="Largest entry of the gradient.", panel="Optimisation", above=0)
    images_per_class: int | None = option(
        None,
        help="Class-balanced batches of this many images per class.",
        panel="Data",
        min=1,
        show_default="random batches",
    )
    validation: float = option(
        0.0, help="Share of the training classes kept for choosing the best epoch.", panel="Data", min=0, below=1
    )
    min_crop: float = option(
        0.08,
        help="Smallest share of its area that a random crop of a colour image keeps.",
        panel="Data",
        above=0,
        max=1,
    )
    in_memory: bool = option(False, help="Decode all images once, to squares, and keep them in memory.", panel="Data")
    recall: tuple[int, ...] | None = option(
        None, help="The K of recall@K.", panel="Run", min=1, show_default="as published for the data set"
    )
    compare: Literal["auto", "yes", "no"] = option(
        "auto",
        help="Also train the baseline with the same budget, in the run's folder baseline/ (auto: for digits).",
        panel="Run",
    )

    def validate(self) -> None:
        super().validate()
        if self.loop.batch_size < 2:
            raise UserError("--batch-size: a batch of one image holds no pair; take at least 2.")
        if self.images_per_class is not None and self.loop.batch_size % self.images_per_class:
            raise UserError(
                f"--images-per-class {self.images_per_class} does not divide --batch-size {self.loop.batch_size}; "
                "make the batch a multiple of it."
            )
        if self.head_epochs >= self.loop.epochs:
            raise UserError(
                f"--head-epochs {self.head_epochs} leaves none of the {self.loop.epochs} epochs to the backbone; "
                "take fewer."
            )

    @property
    def decay_epochs(self) -> int:
        """Epochs between drops of the learning rate."""
        return self.lr_decay_step or -(-self.loop.epochs // 3)

    @property
    def recalls(self) -> tuple[int, ...]:
        """The K of recall@K in force, always with 1."""
        return tuple(sorted({1, *(self.recall or published_recalls(self.data.dataset))}))

    @property
    def compares(self) -> bool:
        """Whether the baseline is trained too."""
        wanted = self.compare == "yes" or (self.compare == "auto" and self.data.dataset == "digits")
        return wanted and self.method.mode != "baseline"


@dataclass(frozen=True, kw_only=True)
class ModelDataOptions(trained.ModelDataOptions):
    """The trained model and the data it is applied to."""

    dataset: str | None = option(
        None,
        help="Data set.",
        panel="Data",
        metavar="NAME",
        complete=lambda typed: complete_datasets(typed, "metric"),
        show_default="the one it was trained on",
    )
