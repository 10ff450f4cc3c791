"""Options that the commands of ``wasskit ssl`` share. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import OptionGroup, RecipeOptions, group, option
from wasskit.errors import UserError
from wasskit.options import (
    BackboneOptions,
    DataFolderOptions,
    DataOptions,
    LoopOptions,
    OptimizerOptions,
    RunOptions,
    TrainingDeviceOptions,
    sync_norm_option,
)
from wasskit.trained.options import ModelDataOptions

#: Default weights: VICReg's and VISReg's loss up to a factor where the method is the invariance, LeJEPA's about.
_WEIGHTS = {"w2": 1.0, "lu": 1.0, "vicreg": 1.0, "sigreg": 0.05, "visreg": 1.0}

Term = Literal["w2", "lu", "vicreg", "sigreg", "visreg"]
_ANY = {"regulariser": tuple(_WEIGHTS)}
_W2, _LU = {"regulariser": ("w2",)}, {"regulariser": ("lu",)}


@dataclass(frozen=True, kw_only=True)
class UniformityOptions(OptionGroup):
    """The regulariser: a uniformity term, on normalised projections of both views, or a later one."""

    regulariser: Term | None = option(
        None, help="Term added to the loss: W2 or L_U of normalised projections; VICReg's variance and covariance; "
        "SIGReg (LeJEPA); VISReg.", panel="Uniformity", show_default="none",
    )  # fmt: skip
    regulariser_weight: float | None = option(
        None, help="Weight of the term at the start.", panel="Uniformity", min=0,
        show_default="w2 and lu: by --w2-weight and --lu-weight; sigreg 0.05; others 1", counts_with=_ANY,
    )  # fmt: skip
    regulariser_weight_final: float | None = option(
        None, help="Weight of the term in the last epoch.", panel="Uniformity", min=0,
        show_default="w2 and lu: by --w2-weight-final and --lu-weight-final; others that at the start",
        counts_with=_ANY,
    )  # fmt: skip
    slices: int = option(
        256, help="Random directions per step.", panel="Uniformity", min=1, max=65536,
        counts_with={"regulariser": ("sigreg", "visreg")},
    )  # fmt: skip
    stop_on_collapse: bool = option(
        False, help="End the run where the metrics of an epoch show a collapse; else it is only said.",
        panel="Uniformity", flag="--stop-on-collapse",
    )  # fmt: skip
    w2: bool = option(False, help="The same as --regulariser w2.", panel="Uniformity")
    w2_weight: float = option(
        1.0, help="The same as --regulariser-weight, of W2.", panel="Uniformity", min=0, counts_with=_W2
    )
    w2_weight_final: float | None = option(
        None, help="The same as --regulariser-weight-final, of W2.", panel="Uniformity", min=0,
        show_default="that at the start", counts_with=_W2,
    )  # fmt: skip
    w2_ridge: float = option(
        0.0, help="Multiple of the identity added to the covariance.", panel="Uniformity", min=0, counts_with=_W2
    )
    lu: bool = option(False, help="The same as --regulariser lu.", panel="Uniformity")
    lu_weight: float = option(
        1.0, help="The same as --regulariser-weight, of L_U.", panel="Uniformity", min=0, counts_with=_LU
    )
    lu_weight_final: float | None = option(
        None, help="The same as --regulariser-weight-final, of L_U.", panel="Uniformity", min=0,
        show_default="that at the start", counts_with=_LU,
    )  # fmt: skip
    solver: Literal["auto", "eigh", "polar"] = option(
        "auto",
        help="Matrix roots by eigenvalues or by matrix products alone (auto: products on a GPU).",
        panel="Uniformity",
    )

    def validate(self) -> None:
        super().validate()
        if self.w2 and self.lu:
            raise UserError("--w2 and --lu are two terms for the same end: give one of them.")
        former = "w2" if self.w2 else "lu" if self.lu else None
        if self.regulariser is not None and former not in (None, self.regulariser):
            raise UserError(f"--{former} is another term than --regulariser {self.regulariser}: give one of them.")

    def in_effect(self, name: str) -> Any:
        return self.term if name == "regulariser" else super().in_effect(name)

    @property
    def term(self) -> Term | None:
        """The term that is asked for."""
        return self.regulariser or ("w2" if self.w2 else "lu" if self.lu else None)

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weight of the term at the start and in the last epoch; zeros without a term."""
        if self.term is None:
            return 0.0, 0.0
        former = {"w2": (self.w2_weight, self.w2_weight_final), "lu": (self.lu_weight, self.lu_weight_final)}
        start, end = former.get(self.term, (_WEIGHTS[self.term], None))
        start = start if self.regulariser_weight is None else self.regulariser_weight
        end = end if self.regulariser_weight_final is None else self.regulariser_weight_final
        return start, start if end is None else end


@dataclass(frozen=True, kw_only=True)
class ViewOptions(OptionGroup):
    """The distribution of the two views; what is not given comes from ``views``."""

    views: Literal["auto", "natural", "characters"] = option(
        "auto",
        help="Augmentation: natural as published; characters without flips and colours (auto: for grey images).",
        panel="Views",
    )
    min_crop: float | None = option(
        None, help="Smallest crop, as a share of the area.", panel="Views", above=0, max=1,
        show_default="natural 0.08, characters 0.5", former="crop_min",
    )  # fmt: skip
    flip: float | None = option(
        None, help="Probability of a left-right flip.", panel="Views", min=0, max=1,
        show_default="natural 0.5, characters 0",
    )  # fmt: skip
    jitter: float | None = option(
        None, help="Probability of a colour jitter.", panel="Views", min=0, max=1, show_default="0.8"
    )
    grey: float | None = option(
        None, help="Probability of a conversion to grey.", panel="Views", min=0, max=1,
        show_default="natural 0.2, characters 0",
    )  # fmt: skip
    blur: float | None = option(
        None, help="Probability of a blur.", panel="Views", min=0, max=1, show_default="natural 0.5, characters 0"
    )
    solarise: float | None = option(
        None, help="Probability of a solarisation.", panel="Views", min=0, max=1,
        show_default="natural 0.2, characters 0",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions(OptionGroup):
    """k-nearest-neighbour classification."""

    k: int | None = option(
        None, help="Neighbours that vote.", panel="Evaluation", min=1, short="-k",
        show_default="200; 10 on sets of fewer than 5,000 images",
    )  # fmt: skip
    temperature: float | None = option(
        None, help="Votes weigh exp(cosine / temperature).", panel="Evaluation", above=0, show_default="1"
    )


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(RecipeOptions):
    """What the four methods have in common."""

    uniformity: UniformityOptions = UniformityOptions()
    data: DataOptions = DataOptions()
    loop: LoopOptions = LoopOptions(epochs=60, batch_size=128, eval_every=10)
    optim: OptimizerOptions = group(
        OptimizerOptions(optimizer="lars", lr=0.2, weight_decay=1e-4, warmup_epochs=10),
        help={
            "lr": "Learning rate (peak) of a batch of 256; scaled to the batch.",
            "warmup_epochs": "Epochs of linear warm-up (a tenth of shorter runs).",
        },
    )
    model: BackboneOptions = BackboneOptions()
    views: ViewOptions = ViewOptions()
    run: RunOptions = RunOptions()
    machine: TrainingDeviceOptions = TrainingDeviceOptions()
    split: str | None = option(
        None, help="Split to train on; labels are not used.", panel="Data",
        show_default="train; with its unlabelled part for stl10",
    )  # fmt: skip
    projector: tuple[int, ...] | None = option(
        None, help="Widths of the projector's layers, the last being that of the projections.", panel="Model",
        min=1, show_default="2048,2048,256; 512,512,128 on tiny",
    )  # fmt: skip
    sync_bn: bool | None = sync_norm_option(former={"batch_norm": {"sync": True, "local": False}})
    bias_lr: float = option(
        0.005, help="Learning rate of biases and norms, likewise.", panel="Optimisation", above=0,
    )  # fmt: skip
    test_split: str = option(
        "test", help="Split that is measured on, as `test/...`: another one where settings are chosen.", panel="Data"
    )
    probe_epochs: int = option(
        0, help="Epochs of a linear probe at the end, with RankMe of the features; 0: `ssl linear` later.",
        panel="Evaluation", min=0,
    )  # fmt: skip
    knn_k: int | None = option(
        None, help="Neighbours that vote in the evaluations while training.", panel="Evaluation", min=1,
        show_default="200; 10 on sets of fewer than 5,000 images",
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        if self.loop.batch_size < 2:
            raise UserError(
                f"--batch-size: {self.loop.batch_size} image gives no statistics over a batch; take at least 2."
            )


@dataclass(frozen=True, kw_only=True)
class LayerOptions(OptionGroup):
    """Which layer's output is the embedding."""

    what: Literal["features", "projections"] = option(
        "features", help="The backbone's features, or the projector's projections.", panel="Embeddings"
    )
    folders: DataFolderOptions = group(DataFolderOptions(), hidden=True)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(ModelDataOptions):
    """The pretrained model and the data it is measured on."""

    seed: int = option(0, help="Seed of everything random.", panel="Evaluation", min=0, max=2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(OptionGroup):
    """The linear probe; the defaults are the published protocol."""

    probe_epochs: int = option(100, help="Epochs of the linear probe.", panel="Evaluation", min=1)
    probe_lr: float = option(0.3, help="Its learning rate (peak).", panel="Evaluation", above=0)
    probe_batch_size: int = option(256, help="Its images per step.", panel="Evaluation", min=1)
