"""``wasskit study icc``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import CloningOptions, size_option


@dataclass(frozen=True, kw_only=True)
class StudyIcc(CloningOptions):
    """Options of ``wasskit study icc``."""

    n: int | None = size_option("1,000")


def report(config: StudyIcc, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("icc", config, device)


command = study_command(
    "icc",
    StudyIcc,
    report,
    "Instance cloning: the sample repeated k times.\n\n"
    "Repeating all instances leaves their distribution as it was: -W2 stays, -L_U falls.",
    ("wasskit study icc", "wasskit study icc --n 1000", "wasskit study icc --dim 64 --copies 4"),
    following=("wasskit study fcc",),
)
