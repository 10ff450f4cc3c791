"""``wasskit study fbc``."""

from __future__ import annotations

from typing import Any

from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import CloningOptions


def report(config: CloningOptions, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("fbc", config, device)


command = study_command(
    "fbc",
    CloningOptions,
    report,
    "Feature baby: k blocks of zero features appended.\n\n"
    "Features that are always zero are wasted: -W2 falls with each block, -L_U does not notice.",
    ("wasskit study fbc", "wasskit study fbc --n 1000", "wasskit study fbc --dim 64 --copies 4"),
    following=("wasskit study icc",),
)
