"""What the README says can be typed, can be typed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wasskit.cli import GENERAL, GROUPS, find_command, load_command
from wasskit.config import Command, fields_of
from wasskit.plugins import BUILT_IN, load_plugin

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _command_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for block in _blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("wasskit ")]


def _find(words: list[str]) -> tuple[Command, list[str]]:  # type: ignore[type-arg]
    for group in GROUPS:
        if words[0] == group.name:
            return load_command(group, words[1]), words[2:]
    if words[0] in GENERAL.commands:
        return load_command(GENERAL, words[0]), words[1:]
    length = 3 if words[1] in load_plugin(BUILT_IN[words[0]]).groups else 2
    return find_command(" ".join(words[:length])), words[length:]


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


LEFT_OUT = {
    "--data-root /data": "the data set is not in this repository",
    "mrl/ablation-lambda": "needs ImageNet-100",
    "seed=0,1,2,3,4": "twenty trainings; sweeps have tests of their own",
}
"""Lines that are not carried out, by what they hold, and why."""

SMALL = {
    "mrl train": "--epochs 1 --no-tensorboard",
    "ssl byol": "--epochs 1 --projector 16,8 --no-tensorboard",
    "mrl adapt": "--epochs 1 --dims 8,64",
    "ssl linear": "--probe-epochs 1",
    "ssl evaluate": "--probe-epochs 1",
    "metrix train": "--epochs 1 --no-tensorboard",
    "metrix crossval": "--epochs 1 --trials 1 --repeats 1 --losses contrastive",
    "w2gn fit": "--steps 2 --hidden 4 --no-tensorboard",
    "w2gn toy": "--steps 2 --hidden 4 --start-samples 64 --test-size 100 --no-tensorboard",
    "w2gn gaussians": "--steps 2 --test-size 100 --start-samples 128 --no-tensorboard",
    "w2gn benchmark": "--steps 2 --test-size 100 --start-samples 128 --hidden 8 --no-tensorboard",
    "w2gn color": "--steps 2 --hidden 4 --start-samples 64 --test-size 100 --no-tensorboard",
    "study collapse": "--quick --n 200 --repetitions 1",
}
"""What is added to the README's words so that the work is small."""


def _words(line: str) -> list[str]:
    """The words of a line as a shell hands them over, patterns replaced by the paths that they match."""
    words: list[str] = []
    for word in shlex.split(line):
        words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
    return words


def _own_files() -> None:
    """What the README's reader brings along: photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    Path("photos").mkdir()
    pictures = [Image.fromarray(pixels).resize((48, 32)) for pixels in load_sample_images().images]
    for name, picture in zip(("source.jpg", "target.jpg"), pictures, strict=True):
        picture.save(name)
        picture.save(f"photos/{name}")
    pictures[0].save("query.png")
    for name in ("before.npy", "after.npy"):
        np.save(name, np.random.default_rng(0).normal(size=(60, 4)))


@pytest.mark.slow
def test_the_command_lines_work_as_written_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    """In one folder, from nothing: each line finds what those before it have made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WASSKIT_DATA", str(tmp_path))
    _own_files()
    carried_out = []
    for line in _command_lines():
        if any(part in line for part in LEFT_OUT):
            continue
        more = next((words for command, words in SMALL.items() if line.startswith(f"wasskit {command}")), "")
        result = run_cli(*_words(line)[1:], *more.split())
        assert result.exit_code == 0, f"`{line}`: {result.stderr[-2000:]}"
        carried_out.append(line)
    assert len(carried_out) == len(_command_lines()) - 5
    assert all(any(part in line for line in _command_lines()) for part in LEFT_OUT)


@pytest.mark.parametrize("number", range(len(_blocks("python"))))
def test_library_examples_run(number: int) -> None:
    exec(compile(_blocks("python")[number], f"README.md block {number}", "exec"), {})


def _drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_picture_is_no_older_than_what_draws_it() -> None:
    from PIL import Image

    drawing = _drawing()
    assert f"({drawing.PICTURE.relative_to(ROOT)})" in README
    with Image.open(drawing.PICTURE) as picture:
        stale = "docs/figures.py has changed since: run `python docs/figures.py`"
        assert picture.info["drawn by"] == drawing.digest(), stale


@pytest.mark.slow
def test_the_picture_can_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    """With its commands carried out in this process."""
    from PIL import Image

    def carry_out(argv: list[str], *, check: bool) -> None:
        assert argv[:3] == [sys.executable, "-m", "wasskit"]
        result = run_cli(*argv[3:])
        assert result.exit_code == 0, result.stderr

    drawing = _drawing()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "subprocess", SimpleNamespace(run=carry_out))
    monkeypatch.setattr("sys.argv", ["figures.py", "--short", "--runs", "runs", "--output", "again.png"])
    drawing.main()
    with Image.open(tmp_path / "again.png") as again, Image.open(drawing.PICTURE) as kept:
        assert again.size == kept.size


def test_the_two_commands_are_marked_for_the_machine() -> None:
    for name in ("train", "tests"):
        block = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```\n<!-- /{name} -->", README, flags=re.DOTALL)
        assert block is not None
        assert "pip install" in block[1]
