"""``wasskit recipes list``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, option


@dataclass(frozen=True, kw_only=True)
class RecipesList(CommandOptions):
    """Options of ``wasskit recipes list``."""

    plugin: str | None = option(
        None, help="Only the recipes of one plugin.", metavar="PLUGIN", complete=lambda typed: _complete(typed)
    )


def _complete(typed: str) -> list[str]:
    from wasskit.recipes import recipe_names

    return sorted({plugin for name in recipe_names() if (plugin := name.partition("/")[0]).startswith(typed)})


def body(config: RecipesList, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.recipes import parse_recipe, recipe_names, recipes_folder

    names = recipe_names(config.plugin)
    if not names:
        plugins = sorted({name.partition("/")[0] for name in recipe_names()})
        raise UserError(f"No recipes for {config.plugin!r}; there are recipes for {', '.join(plugins)}.")
    rows = []
    for name in names:
        recipe = parse_recipe(name, recipes_folder() / f"{name}.toml")
        rows.append((name, f"wasskit {recipe.command}", recipe.title))
    if not config.json:
        console.table(None, ["Recipe", "Command", "What it is"], rows)
        console.result("Run one: [bold]wasskit mrl train --recipe NAME[/bold]; edit one: wasskit recipes copy NAME")
    return {"recipes": [{"name": n, "command": c, "title": t} for n, c, t in rows]}


command = Command("recipes list", RecipesList, body, "List the recipes.")
