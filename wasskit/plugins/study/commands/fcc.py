"""``wasskit study fcc``."""

from __future__ import annotations

from typing import Any

from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import CloningOptions


def report(config: CloningOptions, device: Any) -> Any:
    """The study itself."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report("fcc", config, device)


command = study_command(
    "fcc",
    CloningOptions,
    report,
    "Feature cloning: the features repeated k times.\n\n"
    "Redundant features add nothing, so a metric of uniformity should fall: -W2 does, -L_U "
    "rises. The cloned features are not divided by their new length, as in the paper.",
    ("wasskit study fcc", "wasskit study fcc --n 1000", "wasskit study fcc --dim 64 --copies 4"),
    following=("wasskit study fbc",),
)
