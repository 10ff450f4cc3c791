"""``wasskit study density``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasskit.config import option
from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import StudyOptions, require_distinct


@dataclass(frozen=True, kw_only=True)
class StudyDensity(StudyOptions):
    """Options of ``wasskit study density``."""

    dims: tuple[int, ...] = option(
        (2, 4, 8, 16, 32, 64, 128, 256), help="Dimensions m of the sphere.", panel="Study", min=2
    )
    joint_dims: tuple[int, ...] = option(
        (4, 8, 32), help="Dimensions whose joint density of two coordinates is drawn.", panel="Study", min=2
    )
    n: int | None = option(
        None, help="Points of the 1-D histograms.", panel="Study", min=100, show_default="200,000; 20,000 with --quick"
    )
    n_joint: int | None = option(
        None, help="Points of the 2-D histograms.", panel="Study", min=100,
        show_default="2,000,000; 200,000 with --quick",
    )  # fmt: skip
    bins: int = option(51, help="Bins of [-1, 1), per axis.", panel="Study", min=2, max=1001)

    def validate(self) -> None:
        super().validate()
        require_distinct("--dims", self.dims)
        require_distinct("--joint-dims", self.joint_dims)


def report(config: StudyDensity, device: Any) -> Any:
    """The report of the study, which `study all` makes too."""
    from wasskit.plugins.study.density import density_report

    n = config.n or (20_000 if config.quick else 200_000)
    n_joint = config.n_joint or (200_000 if config.quick else 2_000_000)
    return density_report(config.dims, config.joint_dims, n=n, n_joint=n_joint, bins=config.bins, seed=config.seed)


command = study_command(
    "density",
    StudyDensity,
    report,
    "A coordinate of the uniform sphere against N(0, 1/m), in one and two dimensions.\n\n"
    "Histograms, exact densities, and the exact total variation and W1 distances over m: why a Gaussian can stand "
    "for the uniform sphere in W2.",
    ("wasskit study density", "wasskit study density --dims 2,16,128 --joint-dims 4,64 --bins 31"),
    following=("wasskit study collapse",),
)
