"""``wasskit recipes show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument
from wasskit.recipes import complete_recipes


@dataclass(frozen=True, kw_only=True)
class RecipesShow(CommandOptions):
    """Options of ``wasskit recipes show``."""

    recipe: str = argument(help="Name or path of a recipe.", complete=complete_recipes)


def body(config: RecipesShow, invocation: Invocation) -> Mapping[str, Any]:
    import sys

    from wasskit.recipes import find_recipe, parse_recipe
    from wasskit.system.documents import read_text

    name, path = find_recipe(config.recipe)
    recipe = parse_recipe(name, path)
    if not config.json:
        sys.stdout.write(read_text(path))
    return {"name": name, **recipe.document}


command = Command("recipes show", RecipesShow, body, "Print a recipe.", ("wasskit recipes show mrl/imagenet100",))
