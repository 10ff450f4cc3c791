"""``wasskit study fcc``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.study.options import CloningOptions, size_option


@dataclass(frozen=True, kw_only=True)
class StudyFcc(CloningOptions):
    """Options of ``wasskit study fcc``."""

    n: int | None = size_option("50,000", "4,000")


def report(config: StudyFcc, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("fcc", config, device)


def body(config: StudyFcc, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.study.session import run_study

    return run_study(config, invocation, "fcc", report, following=("wasskit study fbc",))


command = Command(
    "study fcc",
    StudyFcc,
    body,
    "Feature cloning: the features repeated k times.\n\n"
    "Redundant features add nothing, so a metric of uniformity should fall: -W2 does, -L_U "
    "rises. The cloned features are not divided by their new length, as in the paper.",
    ("wasskit study fcc", "wasskit study fcc --n 1000", "wasskit study fcc --dim 64 --copies 4"),
)
