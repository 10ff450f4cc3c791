"""``wasskit study fbc``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.study.options import CloningOptions, size_option


@dataclass(frozen=True, kw_only=True)
class StudyFbc(CloningOptions):
    """Options of ``wasskit study fbc``."""

    n: int | None = size_option("50,000", "4,000")


def report(config: StudyFbc, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("fbc", config, device)


def body(config: StudyFbc, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.study.session import run_study

    return run_study(config, invocation, "fbc", report, following=("wasskit study icc",))


command = Command(
    "study fbc",
    StudyFbc,
    body,
    "Feature baby: k blocks of zero features appended.\n\n"
    "Features that are always zero are wasted: -W2 falls with each block, -L_U does not notice.",
    ("wasskit study fbc", "wasskit study fbc --n 1000", "wasskit study fbc --dim 64 --copies 4"),
)
