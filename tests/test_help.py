"""What ``--help`` shows is what a run uses: defaults, bounds and words for defaults that depend on something."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasskit.cli import GENERAL, GROUPS, load_command
from wasskit.config import Command, bounds_phrase, build, display, fields_of, to_options
from wasskit.config.schema import PANELS
from wasskit.plugins import BUILT_IN, load_plugin

PLUGINS = [GENERAL, *GROUPS, *map(load_plugin, BUILT_IN.values())]
COMMANDS: dict[str, Command[Any]] = {
    f"{plugin.name} {name}": load_command(plugin, name) for plugin in PLUGINS for name in plugin.commands
}

OFF = {
    "weights", "clip_norm", "autoencoder", "vgg_weights", "inception_weights", "images", "source", "target", "recipe",
    "resume", "pairs", "labels", "test_labels", "views", "plugin", "title", "caption",
}  # fmt: skip
"""Options whose absence is what it sounds like: nothing is loaded, clipped, resumed or written above."""


def _required(command: Command[Any]) -> dict[str, Any]:
    """Something for every argument that has no default."""
    dummy = {Path: Path("x"), str: "bash", int: 1, float: 1.0}
    return {
        f.name: (dummy[f.kind.base],) if f.kind.sequence else dummy[f.kind.base]
        for f in fields_of(command.options)
        if f.required
    }


def _entries(help_text: str) -> dict[str, str]:
    """Rendered help, flag by flag, lines of one entry joined."""
    entries: dict[str, str] = {}
    flag = ""
    for line in help_text.splitlines():
        started = re.match(r"│ [* ] *(--[\w-]+)|│ (--[\w-]+)", line)
        if started:
            flag = started[1] or started[2]
            entries[flag] = ""
        if flag and line.startswith("│"):
            entries[flag] += line.strip("│ ") + " "
        elif not line.startswith("│"):
            flag = ""
    return entries


@pytest.mark.parametrize("path", COMMANDS)
def test_panels_come_in_the_order_of_all_plugins(path: str, run_cli: Callable[..., Any]) -> None:
    """What a user sets first comes first: the method, the data, the length of a training; then all else."""
    words = path.split(" ") if not path.startswith("wasskit ") else path.split(" ")[1:]
    shown = re.findall(r"^╭─ (\S[^─]*?) ─", run_cli(*words, "--help").stdout, flags=re.MULTILINE)
    panels = [panel for panel in shown if panel != "Arguments"]
    known = {f.option.panel for f in fields_of(COMMANDS[path].options) if not f.option.positional}
    assert set(panels) <= known | {"Options"}
    assert panels[-1] == "Output" or panels == ["Options"]
    ranks = [PANELS.index(panel) for panel in panels if panel in known]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_default_shown_is_the_one_a_run_saves(
    path: str, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("TERMINAL_WIDTH", "500")
    command = COMMANDS[path]
    words = path.split(" ") if not path.startswith("wasskit ") else path.split(" ")[1:]
    entries = _entries(run_cli(*words, "--help").stdout)
    saved = to_options(build(command.options, _required(command)))
    for f in fields_of(command.options):
        if f.option.positional:
            continue
        if f.option.hidden:
            assert f.flag not in entries, f"{path} {f.flag}"
            continue
        text = entries[f.flag]
        shown = re.search(r"\[default: ([^\]]*)\]", text)
        bounds = bounds_phrase(f.option)
        assert not bounds or f"({bounds})" in text, f"{path} {f.flag}: bounds"
        for other, values in (f.option.counts_with or {}).items():
            choices = next(g for g in fields_of(command.options) if g.name == other).choices
            assert set(values) - {None} <= set(choices or ()), f"{path} {f.flag} counts with {other} {values}"
            typed = f"--{other.replace('_', '-')}"
            condition = f"without {typed}" if None in values else f"with {typed} {', '.join(map(str, values))}"
            assert f"({condition})" in text, f"{path} {f.flag}"
        if f.option.show_default is not None:
            assert shown is not None, f"{path} {f.flag} says nothing of its default"
            assert shown[1] == f.option.show_default, f"{path} {f.flag}"
            continue
        if f.kind.base is bool and not f.kind.sequence and f.option.flag is None:
            assert shown is not None, f"{path} {f.flag} shows no default"
            assert (shown[1] == f.flag[2:]) is bool(f.default), f"{path} {f.flag} shows {shown[1]}"
        elif f.default is None or f.default == ():
            assert shown is None
            assert f.name in OFF or "default" in text or f.default == (), f"{path} {f.flag} says nothing"
        elif f.option.flag is None or f.kind.base is not bool:
            assert shown is not None, f"{path} {f.flag} shows no default"
            assert shown[1] == display(f.default), f"{path} {f.flag}"
        if f.name in saved:
            value = saved[f.name]
            assert display(tuple(value) if isinstance(value, list) else value) == display(f.default)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_narrow_terminal_cuts_nothing_off(
    path: str, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    words = path.split(" ") if not path.startswith("wasskit ") else path.split(" ")[1:]
    shown = run_cli(*words, "--help").stdout
    assert max(map(len, shown.splitlines())) == 80
    assert "…" not in shown
    for f in fields_of(COMMANDS[path].options):
        assert f.option.positional or f.option.hidden or re.search(rf"^│ [* ]*{f.flag} ", shown, re.MULTILINE), f.flag


@pytest.mark.parametrize("path", COMMANDS)
def test_choices_are_not_broken_within_one(
    path: str, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    words = re.split(r"[\s|│]+", run_cli(*path.removeprefix("wasskit ").split(" "), "--help").stdout)
    for f in fields_of(COMMANDS[path].options):
        if f.option.hidden or f.option.metavar or f.option.positional:
            continue
        for choice in f.option.choices or f.kind.choices or ():
            assert choice in words or "-" in choice, (f.flag, choice)


def test_words_for_a_default_are_not_kept_beside_a_value() -> None:
    """A command that gives an inherited option a value of its own must not go on showing the group's words for it."""
    for path, command in COMMANDS.items():
        for f in fields_of(command.options):
            if f.option.show_default is None or f.default is None or f.default == ():
                continue
            # Only lists that are too long to be read are told in words.
            assert isinstance(f.default, tuple), (path, f.flag)
            assert len(f.default) > 5, (path, f.flag)


WORDS = {
    ("ssl byol", "min_crop"): "natural 0.08, characters 0.5",
    ("ssl byol", "projector"): "2048,2048,256; 512,512,128 on tiny",
    ("w2gn toy", "start_samples"): "32768 plus 4096 per dimension",
    ("study icc", "n"): "1,000",
    ("study collapse", "n"): "20,000; 4,000 with --quick",
    ("mrl train", "run_dir"): "runs/<method>/<name>",
    ("mrl train", "data_root"): "$WASSKIT_DATA, else data",
}


@pytest.mark.parametrize(("path", "name"), WORDS)
def test_words_say_what_the_code_does(path: str, name: str) -> None:
    """The words in one place with the numbers that the code takes."""
    from wasskit.plugins.ssl.network import CHARACTERS, NATURAL

    assert {f.name: f for f in fields_of(COMMANDS[path].options)}[name].option.show_default == WORDS[path, name]
    assert (NATURAL.scale[0], CHARACTERS.scale[0]) == (0.08, 0.5)
    assert (NATURAL.flip, NATURAL.grey, NATURAL.blur, NATURAL.solarise) == (0.5, 0.2, 0.5, 0.2)
    assert NATURAL.jitter == CHARACTERS.jitter == 0.8
    assert (CHARACTERS.flip, CHARACTERS.grey, CHARACTERS.blur, CHARACTERS.solarise) == (0, 0, 0, 0)


@pytest.mark.parametrize("path", COMMANDS)
def test_one_name_means_one_thing(path: str) -> None:
    """Short forms belong to one option everywhere, every --output has -o, and former names are no one else's."""
    fields = fields_of(COMMANDS[path].options)
    short = {"-o": "--output", "-b": "--batch-size", "-q": "--quiet", "-v": "--verbose", "-m": "--metric", "-k": "--k"}
    names = [f.name for f in fields]
    for f in fields:
        if f.option.short:
            assert short[f.option.short] == f.flag
        if f.flag in ("--output", "--batch-size"):
            assert f.option.short is not None, f"{path} {f.flag}"
        for former in f.option.former:
            assert former not in names, f"{path}: {former} is an option itself"
    assert not {"crop_min", "batch_norm", "force", "seeds"} & set(names) or path == "mrl baseline"
    options = [f.flag for f in fields if not f.option.positional]
    assert len(set(options)) == len(options)


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_of_a_command_can_be_parsed(path: str) -> None:
    """Every recipe that an example or the README's examples name exists, for that command; every option too."""
    import shlex

    from wasskit.cli import find_command
    from wasskit.recipes import load_recipe

    for line in COMMANDS[path].examples:
        words = shlex.split(line.replace("<(", "").replace(")", ""))
        words = words[words.index("wasskit") + 1 :]
        if "--recipe" in words and words[0] in BUILT_IN:
            name = " ".join(words[:2])
            assert load_recipe(words[words.index("--recipe") + 1], command=name).command == name
            assert find_command(name) is not None
        flags = {p for parameter in COMMANDS[path].build().params for p in (*parameter.opts, *parameter.secondary_opts)}
        if " ".join(words).startswith(path):
            assert {w for w in words if re.match(r"--?[a-z]", w)} <= flags, line
