"""Options that the commands of ``wasskit plot`` share. Free of numpy and matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasskit.candidates import complete_local_paths, complete_runs
from wasskit.config import OptionGroup, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions

FORMATS = ("png", "pdf", "svg")


def complete_sources(typed: str) -> Iterable[str]:
    """Candidates for an argument that takes runs and files."""
    return sorted({*complete_runs(typed), *complete_local_paths(typed)})


@dataclass(frozen=True, kw_only=True)
class RunsArgument(OptionGroup):
    """The runs to draw."""

    runs: tuple[Path, ...] = argument(
        help="Run directories, or folders that hold some.", complete=complete_runs, metavar="RUN..."
    )
    group: bool = option(
        True, help="Join runs that differ only in their seed: mean and standard deviation.", panel="Runs"
    )
    labels: tuple[str, ...] | None = option(
        None, help="Names of the runs or groups, in order.", panel="Runs", show_default="what differs"
    )


@dataclass(frozen=True, kw_only=True)
class FigureOptions(OptionGroup):
    """Where figures go and how they look."""

    files: OverwriteOptions = OverwriteOptions()
    output: Path | None = option(
        None, help="Folder, or file if there is one figure.", panel="Figure", short="-o", show_default="plots/"
    )
    format: tuple[Literal["png", "pdf", "svg"], ...] = option(
        ("png",), help="File formats.", panel="Figure", metavar="png,pdf,svg"
    )
    style: Literal["paper", "screen"] = option(
        "paper", help="For print (a journal's column widths, no titles), or larger and titled.", panel="Figure"
    )
    width: Literal["single", "double"] | None = option(
        None, help="One or two columns wide.", panel="Figure", show_default="by the number of panels"
    )
    title: str | None = option(None, help="Title above the figure.", panel="Figure")

    def validate(self) -> None:
        super().validate()
        if not self.format:
            raise UserError("--format is empty: give one or more of png, pdf, svg.")
        suffix = self.output.suffix[1:].lower() if self.output is not None else ""
        if suffix in FORMATS and set(self.format) - {suffix} and self.format != ("png",):
            raise UserError(
                f"--output {self.output} is one .{suffix} file, but --format asks for {', '.join(self.format)}: "
                "name a folder, or leave --format out."
            )


@dataclass(frozen=True, kw_only=True)
class AxisOptions(OptionGroup):
    """What is on the axes of learning curves."""

    x: Literal["auto", "epoch", "step"] = option("auto", help="Horizontal axis.", panel="Axes")
    smooth: float = option(0.0, help="Exponential smoothing: the weight of the past.", panel="Axes", min=0, below=1)
    log_x: bool = option(False, help="Logarithmic horizontal axis.", panel="Axes", flag="--log-x")
    log_y: bool = option(False, help="Logarithmic vertical axis.", panel="Axes", flag="--log-y")


@dataclass(frozen=True, kw_only=True)
class MetricOptions(OptionGroup):
    """Which metrics."""

    metric: tuple[str, ...] | None = option(
        None,
        help="Metrics: split/name, a name alone, or a pattern such as test/top1@*.",
        panel="Metrics",
        short="-m",
        show_default="the main ones",
    )


@dataclass(frozen=True, kw_only=True)
class WhichOptions(OptionGroup):
    """Which evaluation of a run counts."""

    which: Literal["final", "best"] = option(
        "final", help="The last evaluation, or the best one by --by.", panel="Metrics"
    )
    by: str | None = option(
        None,
        help="Metric that decides which evaluation is the best.",
        panel="Metrics",
        metavar="METRIC",
        show_default="the one the run monitored",
    )
