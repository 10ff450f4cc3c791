"""``wasskit recipes validate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument
from wasskit.recipes import complete_recipes


@dataclass(frozen=True, kw_only=True)
class RecipesValidate(CommandOptions):
    """Options of ``wasskit recipes validate``."""

    recipes: tuple[str, ...] = argument((), help="Names or paths (default: all recipes).", complete=complete_recipes)


def body(config: RecipesValidate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.cli import validate_recipe
    from wasskit.errors import UserError
    from wasskit.recipes import recipe_names
    from wasskit.text import counted

    valid, faults = [], []
    for named in config.recipes or recipe_names():
        try:
            valid.append(validate_recipe(named))
        except UserError as error:
            faults.append(str(error))
    for fault in faults[:-1]:
        console.stderr().print(f"[bold red]Error:[/bold red] {console.escape(fault)}")
    if faults:
        raise UserError(faults[-1])
    if not config.json:
        console.result(f"{counted(len(valid), 'recipe')} valid.")
    return {"valid": valid}


command = Command(
    "recipes validate", RecipesValidate, body, "Check recipes against the commands they configure.",
    ("wasskit recipes validate", "wasskit recipes validate mine.toml"),
)  # fmt: skip
