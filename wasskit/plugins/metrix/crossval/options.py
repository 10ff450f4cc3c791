"""Options of ``wasskit metrix crossval``. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wasskit.config import OptionGroup, RecipeOptions, option, same
from wasskit.errors import UserError
from wasskit.options import (
    BackboneOptions,
    DataOptions,
    EpochOptions,
    OneDeviceOptions,
    OptimizerOptions,
    RunFolderOptions,
    RunOptions,
)
from wasskit.plugins.metrix.losses import loss_names
from wasskit.plugins.metrix.options import MethodOptions, TrainingOptions


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(OptionGroup):
    """What is compared, and how often."""

    losses: tuple[str, ...] = option(
        ("contrastive", "multisimilarity"), help="Metric losses to compare.", panel="Method", choices=loss_names()
    )
    modes: tuple[Literal["baseline", "input", "feature", "embed"], ...] = option(
        ("baseline", "embed"), help="What is mixed, for each loss; `baseline` is what the others are held against.",
        panel="Method",
    )  # fmt: skip
    folds: int | None = option(
        None, help="Class-disjoint folds of the training classes; each is held out for validation once.",
        panel="Study", min=2, show_default="4, or as many as leave two classes in each",
    )  # fmt: skip
    trials: int = option(
        3, help="Settings tried for every loss and mode; the first is the default one, the others are drawn.",
        panel="Study", min=1,
    )  # fmt: skip
    repeats: int = option(
        5, help="Repetitions with the chosen settings, each with folds, weights and batches of its own.", panel="Study",
        min=1,
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        for flag, values in (("--losses", self.losses), ("--modes", self.modes)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag}: name one or more, each once, not {','.join(values) or 'none'}.")
        if "baseline" not in self.modes:
            raise UserError("--modes: leave baseline among them; every other mode is held against it.")


@dataclass(frozen=True, kw_only=True)
class CrossvalOptions(RecipeOptions):
    """Everything that a comparison depends on."""

    comparison: ComparisonOptions = ComparisonOptions()
    alpha: float = same(MethodOptions, "alpha")
    pairs: Literal["both", "positive-negative", "anchor-negative"] = same(MethodOptions, "pairs")
    max_triples: int | None = same(MethodOptions, "max_triples", 1000)
    embedding_size: int | None = same(MethodOptions, "embedding_size")
    frozen: bool = option(
        False, help="Train the embedding layer alone, on feature maps that are computed once and kept in the run.",
        panel="Model", flag="--frozen",
    )  # fmt: skip
    data: DataOptions = DataOptions()
    model: BackboneOptions = BackboneOptions()
    loop: EpochOptions = EpochOptions(epochs=3, batch_size=100)
    optim: OptimizerOptions = OptimizerOptions(optimizer="adam", lr=1e-3, weight_decay=1e-4)
    lr_decay_step: int | None = same(TrainingOptions, "lr_decay_step")
    lr_decay_gamma: float = same(TrainingOptions, "lr_decay_gamma")
    proxy_lr_factor: float = same(TrainingOptions, "proxy_lr_factor")
    clip_value: float | None = same(TrainingOptions, "clip_value")
    images_per_class: int | None = same(TrainingOptions, "images_per_class")
    min_crop: float = same(TrainingOptions, "min_crop")
    in_memory: bool = same(TrainingOptions, "in_memory")
    run: RunFolderOptions = RunFolderOptions()
    seed: int = same(RunOptions, "seed")
    machine: OneDeviceOptions = OneDeviceOptions()

    def validate(self) -> None:
        super().validate()
        if self.frozen and not (self.model.pretrained or self.model.weights):
            raise UserError("--frozen: a trunk that has learned nothing is of no use; give --weights or --pretrained.")
        unmixed = {"input", "feature"} & set(self.comparison.modes)
        if self.pairs == "anchor-negative" and "proxyanchor" in self.comparison.losses and unmixed:
            raise UserError(
                f"--pairs anchor-negative: proxies have no image and no feature map to mix in {min(unmixed)} mode; "
                "leave it out, or compare --modes baseline,embed."
            )
