"""``wasskit completions install``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, argument


@dataclass(frozen=True, kw_only=True)
class CompletionsInstall(CommandOptions):
    """Options of ``wasskit completions install``."""

    shell: Literal["bash", "zsh", "fish", "powershell"] | None = argument(
        None, help="Shell: bash, zsh, fish or powershell (default: from $SHELL).", metavar="SHELL"
    )


def body(config: CompletionsInstall, invocation: Invocation) -> Mapping[str, Any]:
    import os

    from wasskit import console
    from wasskit.completion import SCRIPTS, install
    from wasskit.errors import UserError

    shell = config.shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SCRIPTS:
        raise UserError(f"Cannot tell your shell from $SHELL ({shell!r}): name one of {', '.join(SCRIPTS)}.")
    path, start_up = install(shell, Path.home())
    if not config.json:
        console.result(f"Completion for {shell} is in {console.escape(str(path))}.")
        if start_up is not None:
            console.result(f"{console.escape(str(start_up))} loads it; open a new terminal.")
    return {"shell": shell, "script": str(path), "start_up": str(start_up) if start_up else None}


command = Command("completions install", CompletionsInstall, body, "Install completion for a shell.")
