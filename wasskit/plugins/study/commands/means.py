"""``wasskit study means``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasskit.config import option
from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import RepeatedOptions, require_distinct, size_option


@dataclass(frozen=True, kw_only=True)
class StudyMeans(RepeatedOptions):
    """Options of ``wasskit study means``."""

    n: int | None = size_option("20,000", "4,000")
    shifts: tuple[float, ...] = option(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), help="Shifts k of both coordinates.", panel="Study", min=0, max=1e4
    )

    def validate(self) -> None:
        super().validate()
        require_distinct("--shifts", self.shifts)


def report(config: StudyMeans, device: Any) -> Any:
    """The report of the study, which `study all` makes too."""
    from wasskit.plugins.study.means import means_report

    return means_report(
        config.shifts, n=config.n or (4_000 if config.quick else 20_000), t=config.metrics.t, device=device,
        seeds=config.seeds, pairs=config.metrics.wanted_pairs,
    )  # fmt: skip


command = study_command(
    "means",
    StudyMeans,
    report,
    "Normalised Gaussians whose mean moves away from the origin.\n\n"
    "x ~ N(k (1, 1), I) divided by its length: a large mean draws all points into one, whatever the covariance of x.",
    ("wasskit study means", "wasskit study means --shifts 0,1,2,3"),
    following=("wasskit study measure FILE.npy",),
)
