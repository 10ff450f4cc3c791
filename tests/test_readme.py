"""What the README says can be typed, can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from wasskit.cli import COMPLETIONS, GENERAL, RECIPES, find_command, load_command
from wasskit.config import Command, fields_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _command_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for block in _blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("wasskit ")]


def _find(words: list[str]) -> tuple[Command, list[str]]:  # type: ignore[type-arg]
    for group in (RECIPES, COMPLETIONS):
        if words[0] == group.name:
            return load_command(group, words[1]), words[2:]
    if words[0] in GENERAL.commands:
        return load_command(GENERAL, words[0]), words[1:]
    return find_command(" ".join(words[:2])), words[2:]


@pytest.mark.parametrize("line", _command_lines())
def test_commands_and_their_options_exist(line: str) -> None:
    command, rest = _find(shlex.split(line)[1:])
    flags = {f.flag for f in fields_of(command.options)} | {
        f.option.short for f in fields_of(command.options) if f.option.short
    }
    flags |= {"--no-" + flag[2:] for flag in flags}
    for word in rest:
        if word.startswith("-"):
            assert word in flags, f"`{line}`: no option {word}"


@pytest.mark.parametrize("number", range(len(_blocks("python"))))
def test_library_examples_run(number: int) -> None:
    exec(compile(_blocks("python")[number], f"README.md block {number}", "exec"), {})


def test_the_two_commands_are_marked_for_the_machine() -> None:
    for name in ("train", "tests"):
        block = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```\n<!-- /{name} -->", README, flags=re.DOTALL)
        assert block is not None
        assert "pip install" in block[1]
