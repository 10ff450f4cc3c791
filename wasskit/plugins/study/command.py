"""The command of one study. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wasskit.config import Command, Invocation
from wasskit.plugins.study.options import StudyOptions

C = TypeVar("C", bound=StudyOptions)


@dataclass(frozen=True)
class StudyCommand(Command[C]):
    """A command that makes one report, in its run directory or in one that several studies share."""

    report: Callable[[C, Any], Any] = field(kw_only=True)


def study_command(
    name: str,
    options: type[C],
    report: Callable[[C, Any], Any],
    help: str,
    examples: tuple[str, ...],
    *,
    following: tuple[str, ...],
) -> StudyCommand[C]:
    """A command that makes ``report(config, device)`` in a run directory and names the commands ``following``."""

    def body(config: C, invocation: Invocation) -> Mapping[str, Any]:
        from wasskit.plugins.study.session import run_study

        return run_study(config, invocation, name, report, following=following)

    return StudyCommand(f"study {name}", options, body, help, examples, report=report)
