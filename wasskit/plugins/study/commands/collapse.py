"""``wasskit study collapse``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasskit.config import option
from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import UniformityOptions, kept_and_total, require_distinct, size_option

LEVELS = (*(round(0.05 * i, 2) for i in range(20)), 0.98, 0.99)


@dataclass(frozen=True, kw_only=True)
class StudyCollapse(UniformityOptions):
    """Options of ``wasskit study collapse``."""

    n: int | None = size_option("20,000", "4,000")
    dims: tuple[int, ...] = option((200, 500, 1000), help="Dimensions m.", panel="Study", min=2)
    levels: tuple[float, ...] = option(
        LEVELS, help="Shares of the coordinates that are zero.", panel="Study", min=0, below=1,
        show_default="0, 0.05, ..., 0.95, 0.98, 0.99",
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        require_distinct("--dims", self.dims)
        require_distinct("--levels", self.levels)
        for m in self.dims:
            kept_and_total(m, max(self.levels), self.collapse.rounding)


def report(config: StudyCollapse, device: Any) -> Any:
    """The report of the study, which `study all` makes too."""
    from wasskit.plugins.study.studies import collapse_report

    return collapse_report(config, config.dims, config.levels, device)


command = study_command(
    "collapse",
    StudyCollapse,
    report,
    "Both metrics as a growing share of the coordinates collapses.\n\n"
    "Points are uniform on the sphere of m (1 - eta) of m coordinates; the others are zero. -W2 falls with every "
    "coordinate that is lost, -L_U hardly moves until few are left.",
    (
        "wasskit study collapse",
        "wasskit study collapse --quick",
        "wasskit study collapse --n 50000 --rounding published",
    ),
    following=("wasskit study dimension",),
)
