"""``wasskit study icc``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.study.options import CloningOptions, size_option


@dataclass(frozen=True, kw_only=True)
class StudyIcc(CloningOptions):
    """Options of ``wasskit study icc``."""

    n: int | None = size_option("1,000")


def report(config: StudyIcc, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("icc", config, device)


def body(config: StudyIcc, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.study.session import run_study

    return run_study(config, invocation, "icc", report, following=("wasskit study fcc",))


command = Command(
    "study icc",
    StudyIcc,
    body,
    "Instance cloning: the sample repeated k times.\n\n"
    "Repeating all instances leaves their distribution as it was: -W2 stays, -L_U falls.",
    ("wasskit study icc", "wasskit study icc --n 1000", "wasskit study icc --dim 64 --copies 4"),
)
