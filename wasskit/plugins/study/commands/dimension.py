"""``wasskit study dimension``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasskit.config import option
from wasskit.errors import UserError
from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import UniformityOptions, require_distinct, size_option

FULL = tuple(2**i for i in range(1, 13))
QUICK = tuple(2**i for i in range(1, 10))


@dataclass(frozen=True, kw_only=True)
class StudyDimension(UniformityOptions):
    """Options of ``wasskit study dimension``."""

    n: int | None = size_option("50,000", "4,000")
    dims: tuple[int, ...] | None = option(
        None, help="Dimensions m.", panel="Study", min=2, show_default="2, 4, ..., 4096; up to 512 with --quick"
    )
    levels: tuple[float, ...] = option(
        (0.75, 0.5, 0.25, 0.0), help="Shares of the coordinates that are zero.", panel="Study", min=0, below=1
    )

    def validate(self) -> None:
        super().validate()
        if self.dims is not None:
            require_distinct("--dims", self.dims)
        require_distinct("--levels", self.levels)
        if not self.cells:
            raise UserError("No dimension is large enough for any of the --levels: give larger --dims.")

    @property
    def cells(self) -> list[tuple[int, float]]:
        """Dimensions and the collapses that they allow, within a tenth of what is to be kept."""
        dims = self.dims or (QUICK if self.quick else FULL)
        kept = {(m, eta): m * (1 - eta) for m in dims for eta in self.levels}
        return [cell for cell, k in kept.items() if k > 0.9 and abs(round(k) - k) <= 0.1 * k + 1e-9]


def report(config: StudyDimension, device: Any) -> Any:
    """The report of the study, which `study all` makes too."""
    from wasskit.plugins.study.studies import dimension_report

    return dimension_report(config, config.cells, device)


command = study_command(
    "dimension",
    StudyDimension,
    report,
    "Both metrics as the dimension grows, at four degrees of collapse.\n\n"
    "In high dimensions -L_U comes to the same value whatever the collapse; -W2 keeps the degrees apart. Dimensions "
    "too small for a degree of collapse are left out of it.",
    (
        "wasskit study dimension",
        "wasskit study dimension --quick",
        "wasskit study dimension --dims 64,256,1024 --exact-lu",
    ),
    following=("wasskit study collapse",),
)
