"""``wasskit study fcc``, ``fbc`` and ``icc``: features, blocks of zeros or instances that are appended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from wasskit.plugins.study.command import study_command
from wasskit.plugins.study.options import Cloning, CloningOptions, size_option


@dataclass(frozen=True, kw_only=True)
class StudyIcc(CloningOptions):
    """Options of ``wasskit study icc``."""

    n: int | None = size_option("1,000")


def report(kind: Cloning, config: CloningOptions, device: Any) -> Any:
    """Both metrics over the number of clones, of the ``kind`` fcc, fbc or icc."""
    from wasskit.plugins.study.studies import cloning_report

    return cloning_report(kind, config, device)


_HELP: dict[Cloning, str] = {
    "fcc": "Feature cloning: the features repeated k times.\n\n"
    "Redundant features add nothing, so a metric of uniformity should fall: -W2 does, -L_U "
    "rises. The cloned features are not divided by their new length, as in the paper.",
    "fbc": "Feature baby: k blocks of zero features appended.\n\n"
    "Features that are always zero are wasted: -W2 falls with each block, -L_U does not notice.",
    "icc": "Instance cloning: the sample repeated k times.\n\n"
    "Repeating all instances leaves their distribution as it was: -W2 stays, -L_U falls.",
}
_NEXT: dict[Cloning, Cloning] = {"fcc": "fbc", "fbc": "icc", "icc": "fcc"}

commands = {
    name: study_command(
        name,
        StudyIcc if name == "icc" else CloningOptions,
        partial(report, name),
        help,
        (f"wasskit study {name}", f"wasskit study {name} --n 1000", f"wasskit study {name} --dim 64 --copies 4"),
        following=(f"wasskit study {_NEXT[name]}",),
    )
    for name, help in _HELP.items()
}
