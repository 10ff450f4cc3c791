"""Options that the commands of ``wasskit mrl`` share. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import OptionGroup, RecipeOptions, argument, option
from wasskit.errors import UserError
from wasskit.options import (
    BackboneOptions,
    DataOptions,
    LoopOptions,
    OptimizerOptions,
    RunOptions,
    TrainingDeviceOptions,
    sync_norm_option,
)
from wasskit.ot.nesting import check_dims
from wasskit.sweeps import options as sweeps
from wasskit.trained import options as trained
from wasskit.trained.vectors import FileOptions, ModelOrFile


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(OptionGroup):
    """The objective: alpha sum_k w_k CE_k + lambda sum_k S_k."""

    dims: tuple[int, ...] | None = option(
        None,
        help="Nested dimensions, increasing; the largest is the embedding's.",
        panel="Method",
        min=1,
        show_default="the backbone's width, halved up to eight times: 8,16,...,2048 for ResNet-50",
    )
    alpha: float = option(1.0, help="Weight alpha of the cross entropies.", panel="Method", min=0)
    wasserstein_weight: float = option(
        1.0, help="Weight lambda of the Sinkhorn divergences between prefixes.", panel="Method", min=0
    )
    beta: float = option(1.0, help="Weight of the residual coordinates in the cost.", panel="Method", min=0)
    blur: float = option(
        0.5, help="Square root of the entropic strength (the paper's epsilon).", panel="Method", above=0
    )
    sinkhorn: Literal["exact", "geomloss"] = option(
        "exact",
        help="Divergences converged (exact), or annealed for a few steps as published (geomloss).",
        panel="Method",
    )
    wasserstein_points: Literal["embeddings", "means"] = option(
        "embeddings",
        help="What the divergences compare: the embeddings, as published, or each one's class mean in the batch.",
        panel="Method",
    )
    label_smoothing: float = option(0.1, help="Label smoothing of the cross entropies.", panel="Method", min=0, below=1)
    ce_weights: tuple[float, ...] | None = option(
        None, help="Weights w_k of the cross entropies, one per dimension.", panel="Method", min=0, show_default="all 1"
    )
    tied: bool = option(False, help="One classifier, sliced, for all dimensions (MRL-E).", panel="Method")

    def validate(self) -> None:
        super().validate()
        if self.dims is not None:
            try:
                check_dims(self.dims)
            except ValueError as error:
                raise UserError(f"--dims: {error}; write them as in --dims 8,16,32.") from None
            check_weights(self.ce_weights, self.dims)

    @property
    def has_one(self) -> bool:
        """Whether there is one dimension, and with it no divergence."""
        return self.dims is not None and len(self.dims) == 1


@dataclass(frozen=True, kw_only=True)
class MethodOptions(ObjectiveOptions):
    """The objective on the embedding of a backbone."""

    embedding: Literal["linear", "identity"] = option(
        "linear", help="Layer from the backbone's features to the embedding.", panel="Method"
    )

    def validate(self) -> None:
        super().validate()
        if self.alpha == 0 and self.wasserstein_weight == 0:
            raise UserError("--alpha 0 and --wasserstein-weight 0 leave nothing to learn: raise one of them.")
        if self.alpha == 0 and self.has_one:
            raise UserError("--alpha 0 leaves nothing to learn of one dimension: raise it, or name several --dims.")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RecipeOptions):
    """Everything one training of ``wasskit mrl`` depends on. The defaults are the paper's best setting."""

    method: MethodOptions = MethodOptions()
    data: DataOptions = DataOptions()
    loop: LoopOptions = LoopOptions(epochs=25)
    optim: OptimizerOptions = OptimizerOptions(clip_norm=1.0)
    model: BackboneOptions = BackboneOptions()
    run: RunOptions = RunOptions()
    machine: TrainingDeviceOptions = TrainingDeviceOptions()
    sync_bn: bool | None = sync_norm_option()

    def validate(self) -> None:
        super().validate()
        if self.loop.batch_size < 2 * self.machine.ranks:
            raise UserError(
                f"--batch-size: {self.loop.batch_size} gives a process fewer than 2 images, too few for batch "
                f"normalisation and for clouds to compare; take at least {2 * self.machine.ranks}."
            )


@dataclass(frozen=True, kw_only=True)
class JobOptions(sweeps.JobOptions):
    """Options of commands that train many times; mixed into those of one training."""

    def validate(self) -> None:
        super().validate()
        machine: TrainingDeviceOptions = self.machine  # type: ignore[attr-defined]
        if machine.ranks > 1:
            raise UserError(
                "--nproc, --nnodes: this command trains many times; use --jobs for trainings at the same time, or "
                "--nproc-per-run for the processes of each."
            )


@dataclass(frozen=True, kw_only=True)
class PrefixOptions(OptionGroup):
    """Which part of an embedding is used."""

    dim: int | None = option(
        None, help="Length of the prefix.", panel="Embeddings", min=1, show_default="the whole embedding"
    )
    unit: bool = option(
        False,
        help="Scale the prefix to unit length again (otherwise it is a part of the unit embedding).",
        panel="Embeddings",
        flag="--unit",
    )


@dataclass(frozen=True, kw_only=True)
class ModelDataOptions(trained.ModelDataOptions):
    """The trained model and the data it is applied to."""

    split: str = option("test", help="Split to measure on.", panel="Data")


@dataclass(frozen=True, kw_only=True)
class ModelOrFileOptions(ModelDataOptions, FileOptions):
    """A trained model and its data, or embeddings from files."""

    trained: ModelOrFile


def check_weights(weights: Sequence[float] | None, dims: Sequence[int]) -> None:
    """Raises ``UserError`` unless there is a weight of the cross entropies for each dimension, or none at all."""
    if weights is not None and len(weights) != len(dims):
        named = ", ".join(map(str, dims))
        raise UserError(f"--ce-weights: {len(weights)} weights for {len(dims)} dimensions ({named}); give one each.")


def default_dims(width: int) -> tuple[int, ...]:
    """A backbone's width halved up to eight times, to no less than 2: 8, 16, ..., 2048 for 2048."""
    dims = [width]
    while len(dims) < 9 and dims[0] // 2 >= 2:
        dims.insert(0, dims[0] // 2)
    return tuple(dims)


def axes_argument(command: str, options: type[RecipeOptions]) -> tuple[str, ...]:
    """The axes of a sweep over the options of a command, with candidates ``key=``."""

    def complete(typed: str) -> Iterable[str]:
        from wasskit.sweeps.axes import complete_axis

        return complete_axis(typed, options, {"method": list(methods())})

    found: tuple[str, ...] = argument(
        (), help=f"Axes of the grid: key=value,value for any option of `{command}`.", complete=complete
    )
    return found


def methods() -> Mapping[str, Mapping[str, Any]]:
    """The four methods of the published comparison, by the settings they are made of."""
    return {
        "mwrl": {},
        "matryoshka": {"wasserstein_weight": 0.0},
        "wasserstein": {"alpha": 0.0},
        "independent": {"wasserstein_weight": 0.0},
    }
