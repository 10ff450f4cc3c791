"""Recipes: one TOML file per published experiment, found by globbing, checked against the command it configures.

A recipe names its ``command``, has a ``title``, the settings under ``[options]`` and, where the experiment was
published, the figures under ``[paper]`` with their ``source``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wasskit.errors import UserError
from wasskit.system.documents import read_text, read_toml
from wasskit.system.hints import did_you_mean, nearest
from wasskit.text import short_text

_TOP_KEYS = {"command", "title", "description", "options", "paper"}
_PAPER_KEYS = {"source", "metrics", "note"}


@dataclass(frozen=True)
class Recipe:
    """One recipe, parsed but for the types of its options."""

    name: str
    path: Path
    document: Mapping[str, Any]

    @property
    def command(self) -> str:
        return str(self.document["command"])

    @property
    def title(self) -> str:
        return str(self.document.get("title", ""))

    @property
    def options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self.document.get("options", {})
        return options

    @property
    def paper(self) -> Mapping[str, Any]:
        paper: Mapping[str, Any] = self.document.get("paper", {})
        return paper


@lru_cache(maxsize=1)
def recipes_folder() -> Path:
    """Where the recipes are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise UserError(f"The recipes are missing from this installation (looked in {package}); reinstall wasskit.")


def recipe_names(plugin: str | None = None) -> list[str]:
    """Names of all recipes, ``<plugin>/<file>``, sorted."""
    folder = recipes_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml")]
    return sorted(name for name in names if plugin is None or name.startswith(plugin + "/"))


def find_recipe(named: str, command: str | None = None) -> tuple[str, Path]:
    """The name and path of a recipe given by name (with or without its plugin) or by path.

    Args:
        command: the command that it is for: its plugin may be left out of the name, and its recipes are offered.

    Raises:
        UserError: there is none; the nearest names are offered.
    """
    plugin = command.split()[0] if command is not None else None
    as_path = Path(named).expanduser()
    if as_path.is_file():
        return as_path.stem, as_path
    if as_path.is_dir() and (as_path / "config.toml").is_file():
        return as_path.name, as_path / "config.toml"
    folder = recipes_folder()
    known = recipe_names()
    for name in (named, f"{plugin}/{named}"):
        if name in known:  # a name, not a path: none that leads out of the folder of recipes
            return name, folder / f"{name}.toml"
    if as_path.suffix == ".toml" or as_path.is_dir():
        raise UserError(f"No recipe file at {as_path}.")
    raise UserError(f"No recipe named {named!r}.{_nearest(named, command)} `wasskit recipes list` shows them all.")


def _nearest(named: str, command: str | None) -> str:
    """A hint at the recipes of a command that are named nearly so, by names that work wherever they are given."""
    spelled: dict[str, str] = {}
    for name in recipe_names(command.split()[0] if command is not None else None):
        if command is None or _command_of(recipes_folder() / f"{name}.toml") == command:
            spelled |= {name: name, name.partition("/")[2]: name}
    near = list(dict.fromkeys(spelled[n] for n in nearest(named, spelled, 3)))
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _command_of(path: Path) -> str:
    return str(read_toml(path).get("command", ""))


def parse_recipe(name: str, path: Path) -> Recipe:
    """Read a recipe and check its outer form (its options are checked by the command).

    Raises:
        UserError: unknown or missing top-level keys, wrong types.
    """
    document = read_toml(path)
    for key in document:
        if key not in _TOP_KEYS:
            advice = did_you_mean(key, _TOP_KEYS, otherwise=" Settings go under [options].")
            raise UserError(f"Unknown key {short_text(repr(key))} in recipe {path}.{advice}")
    if not isinstance(document.get("command"), str):
        raise UserError(f'Recipe {path} does not say which command it configures: add e.g. command = "mrl train".')
    for table in ("options", "paper"):
        if not isinstance(document.get(table, {}), dict):
            raise UserError(f"{table!r} in recipe {path} must be a table.")
    for key in document.get("paper", {}):
        if key not in _PAPER_KEYS:
            raise UserError(
                f"Unknown key {short_text(repr(f'paper.{key}'))} in recipe {path}: known are "
                f"{', '.join(sorted(_PAPER_KEYS))}."
            )
    if not isinstance(document.get("paper", {}).get("metrics", {}), dict):
        raise UserError(f"'paper.metrics' in recipe {path} must be a table of numbers.")
    _check_published(path, document.get("paper", {}).get("metrics", {}))
    return Recipe(name, path, document)


def _check_published(path: Path, metrics: Mapping[str, Any]) -> None:
    """Refuse published figures that are no numbers; the recipe of a grid has a table of them for each setting."""
    for name, entry in metrics.items():
        for key, value in entry.items() if isinstance(entry, dict) else ((name, entry),):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(
                    f"'paper.metrics' in recipe {path} must be a table of numbers: {short_text(repr(key))} is "
                    f"{short_text(repr(value))}."
                )


def load_recipe(named: str, *, command: str) -> Recipe:
    """The recipe to use for a command.

    Raises:
        UserError: there is none of that name, or it configures another command.
    """
    name, path = find_recipe(named, command)
    recipe = parse_recipe(name, path)
    if recipe.command != command:
        raise UserError(
            f"Recipe {path} configures `wasskit {recipe.command}`, not `wasskit {command}`: "
            + (
                f"run `wasskit {recipe.command} --recipe {named}`."
                if _is_command(recipe.command)
                else "there is no such command, correct it in the recipe."
            )
        )
    return recipe


def _is_command(path: str) -> bool:
    from wasskit.plugin import plugin_of

    plugin_name, _, name = path.partition(" ")
    plugin = plugin_of(plugin_name)
    return plugin is not None and name in plugin.commands


def complete_recipes(typed: str, command: str | None = None) -> Iterable[tuple[str, str]]:
    """Candidates for a recipe, of one command or of all: names with their titles, cheaply read."""
    folder = recipes_folder()
    for name in recipe_names():
        if name.startswith(typed):
            found = {}
            for line in read_text(folder / f"{name}.toml").splitlines():
                key, _, value = line.partition("=")
                if key.strip() in ("command", "title"):
                    found[key.strip()] = value.strip().strip('"')
                elif line.startswith("["):
                    break
            if command is None or found.get("command") == command:
                yield name, found.get("title", "")
