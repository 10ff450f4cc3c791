"""Options that the studies share. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import OptionGroup, RecipeOptions, option
from wasskit.errors import UserError
from wasskit.options import OneDeviceOptions, RunFolderOptions

Rounding = Literal["intended", "published"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(RecipeOptions):
    """Where a report goes and on what it is computed."""

    folder: RunFolderOptions = RunFolderOptions()
    machine: OneDeviceOptions = OneDeviceOptions()
    seed: int = option(0, help="Seed of everything random.", panel="Run", min=0, max=2**31 - 1)

    def validate(self) -> None:
        super().validate()
        if self.machine.device.startswith("mps"):
            raise UserError("--device mps has no float64, which the metrics need: use cpu or cuda.")


@dataclass(frozen=True, kw_only=True)
class StudyOptions(ReportOptions):
    """A study, and whether it is made small."""

    quick: bool = option(False, help="Smaller samples: the same picture in seconds.", panel="Study", flag="--quick")


@dataclass(frozen=True, kw_only=True)
class PotentialOptions(OptionGroup):
    """How L_U is taken from a sample."""

    # Below, the rounding of L_U is as large as its scatter from sample to sample.
    t: float = option(2.0, help="Sharpness of the potential in L_U.", panel="Study", min=0.001, max=20)
    exact_lu: bool = option(
        False, help="Take L_U over all pairs, whatever their number.", panel="Study", flag="--exact-lu"
    )


@dataclass(frozen=True, kw_only=True)
class MetricOptions(PotentialOptions):
    """How the two metrics are taken from samples."""

    repetitions: int | None = option(
        None, help="Independent repetitions, with seeds from --seed on; standard errors come from them.",
        panel="Study", min=1, show_default="3; 2 with --quick", former="seeds",
    )  # fmt: skip
    lu_pairs: int = option(
        100_000_000, help="Pairs of points that L_U is the mean over, where there are more: an unbiased estimate.",
        panel="Study", min=1_000_000, former="pairs",
    )  # fmt: skip

    @property
    def wanted_pairs(self) -> int | None:
        return None if self.exact_lu else self.lu_pairs


@dataclass(frozen=True, kw_only=True)
class RepeatedOptions(StudyOptions):
    """A study of both metrics on repeated samples."""

    metrics: MetricOptions = MetricOptions()

    @property
    def seeds(self) -> range:
        """The seeds of the repetitions."""
        return range(self.seed, self.seed + (self.metrics.repetitions or (2 if self.quick else 3)))


@dataclass(frozen=True, kw_only=True)
class CollapseOptions(OptionGroup):
    """How samples of collapsed spheres are drawn."""

    draws: Literal["nested", "independent"] = option(
        "nested", help="nested: one draw per seed serves all cases, each its first coordinates (float32); independent: "
        "each case has its own draw, in order, from one generator (float64; slower).", panel="Study",
    )  # fmt: skip
    rounding: Rounding = option(
        "intended", help="How many coordinates a collapse leaves: intended: the nearest number; published: truncated "
        "in floating point, as the paper's code does (one less at 55, 80 and 90 %).", panel="Study",
    )  # fmt: skip


def size_option(full: str, quick: str = "") -> Any:
    """The number of points of a sample, with the study's own default in its help."""
    words = f"{full}; {quick} with --quick" if quick else full
    return option(None, help="Points per sample.", panel="Study", min=2, show_default=words)


@dataclass(frozen=True, kw_only=True)
class UniformityOptions(RepeatedOptions):
    """A study of collapsed spheres."""

    n: int | None = size_option("by the study")
    collapse: CollapseOptions = CollapseOptions()

    def size(self, full: int, quick: int) -> int:
        """Points per sample."""
        return self.n or (quick if self.quick else full)


Cloning = Literal["fcc", "fbc", "icc"]
"""What is cloned: features, blocks of zeros, or instances."""


@dataclass(frozen=True, kw_only=True)
class CloningOptions(UniformityOptions):
    """A study of clones: dimension, degrees of collapse, number of copies."""

    n: int | None = size_option("50,000", "4,000")
    dim: int = option(32, help="Dimension m of the features.", panel="Study", min=2)
    levels: tuple[float, ...] = option(
        (0.75, 0.5, 0.25), help="Shares of the coordinates that are zero.", panel="Study", min=0, below=1
    )
    copies: int = option(10, help="Largest number k of copies.", panel="Study", min=1, max=100)

    def validate(self) -> None:
        super().validate()
        require_distinct("--levels", self.levels)
        for eta in self.levels:
            kept_and_total(self.dim, eta, self.collapse.rounding)


def kept_and_total(m: int, eta: float, rounding: Rounding = "intended") -> tuple[int, int]:
    """How many of m coordinates a collapse of ``eta`` leaves, and how many there are.

    round(m (1 - eta)) are kept. The published code truncates both shares, int(m (1 - eta)) and int(m eta), in floating
    point: at eta = 0.55, 0.8 and 0.9 it keeps one coordinate less, and the total is one less too
    (``rounding="published"``). Raises ``UserError`` where none is left: all features would be zero vectors, which lie
    on no sphere.
    """
    kept, total = round(m * (1 - eta)), m
    if rounding == "published":
        kept = int(m * (1 - eta))
        total = kept + int(m * eta)
    if kept < 1:
        raise UserError(
            f"A collapse of {eta:g} leaves none of {m} coordinates: give smaller --levels or larger dimensions."
        )
    return kept, total


def require_distinct(flag: str, values: tuple[Any, ...]) -> None:
    """Refuse an empty list and repeated entries."""
    if not values:
        raise UserError(f"{flag} is empty: give at least one value.")
    if len(set(values)) != len(values):
        raise UserError(f"{flag} names a value twice: {', '.join(map(_short, values))}.")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
