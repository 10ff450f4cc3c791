"""``wasskit completions write``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument
from wasskit.options import OverwriteOptions


@dataclass(frozen=True, kw_only=True)
class CompletionsWrite(CommandOptions):
    """Options of ``wasskit completions write``."""

    files: OverwriteOptions = OverwriteOptions()
    folder: Path = argument(Path("completions"), help="Folder to write into (default: completions).")


def body(config: CompletionsWrite, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.completion import SCRIPTS, write_scripts

    config.files.refuse_existing(*(config.folder / name for name, _ in SCRIPTS.values()), flag="folder")
    written = write_scripts(config.folder)
    if not config.json:
        for path in written:
            console.result(console.escape(str(path)))
    return {"written": [str(path) for path in written]}


command = Command("completions write", CompletionsWrite, body, "Write the scripts of all shells into a folder.")
