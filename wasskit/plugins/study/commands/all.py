"""``wasskit study all``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.study.options import CollapseOptions, RepeatedOptions, require_distinct

NAMES = ("density", "collapse", "dimension", "fcc", "fbc", "icc", "means")


@dataclass(frozen=True, kw_only=True)
class StudyAll(RepeatedOptions):
    """Options of ``wasskit study all``."""

    collapse: CollapseOptions = CollapseOptions()
    only: tuple[str, ...] = option(
        NAMES, help="Which studies.", panel="Study", choices=NAMES, show_default="all of them"
    )

    def validate(self) -> None:
        super().validate()
        require_distinct("--only", self.only)


def body(config: StudyAll, invocation: Invocation) -> Mapping[str, Any]:
    import time

    from wasskit.plugins.study import plugin
    from wasskit.plugins.study.session import finish, study_run, write_report

    started = time.perf_counter()
    with study_run(config, invocation, "all") as (run, device):
        results, written = {}, []
        for name in config.only:
            command = plugin.find(name)
            kind = command.options
            shared = {f.name for f in fields(kind)} & {f.name for f in fields(StudyAll)}
            settings = kind(**{key: getattr(config, key) for key in shared})
            report = command.report(settings, device)
            results[name] = report.result
            written += write_report(run, report)
        result = results[config.only[0]] if len(config.only) == 1 else results
        return finish(run, result, written, started, ("wasskit study measure FILE.npy",))


command = Command(
    "study all",
    StudyAll,
    body,
    "All studies into one run directory.\n\nEach with its own sizes, as its command alone.",
    ("wasskit study all --quick", "wasskit study all", "wasskit study all --only collapse,dimension --repetitions 5"),
)
