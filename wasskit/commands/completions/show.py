"""``wasskit completions show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, argument


@dataclass(frozen=True, kw_only=True)
class CompletionsShow(CommandOptions):
    """Options of ``wasskit completions show``."""

    shell: Literal["bash", "zsh", "fish", "powershell"] = argument(
        help="Shell: bash, zsh, fish or powershell.", metavar="SHELL"
    )


def body(config: CompletionsShow, invocation: Invocation) -> Mapping[str, Any]:
    import sys

    from wasskit.completion import script

    text = script(config.shell)
    if not config.json:
        sys.stdout.write(text)
    return {"shell": config.shell, "script": text}


command = Command(
    "completions show", CompletionsShow, body, "Print the completion script of a shell.",
    ('source <(wasskit completions show bash)',),
)  # fmt: skip
