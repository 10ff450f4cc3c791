"""``wasskit recipes copy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, argument
from wasskit.options import OverwriteOptions
from wasskit.recipes import complete_recipes


@dataclass(frozen=True, kw_only=True)
class RecipesCopy(CommandOptions):
    """Options of ``wasskit recipes copy``."""

    recipe: str = argument(help="Name of a recipe.", complete=complete_recipes)
    files: OverwriteOptions = OverwriteOptions()
    destination: Path | None = argument(None, help="File or folder to copy to (default: here, under its own name).")


def body(config: RecipesCopy, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.recipes import find_recipe, parse_recipe
    from wasskit.system.files import replace_file

    name, path = find_recipe(config.recipe)
    recipe = parse_recipe(name, path)
    target = config.destination or Path(path.name)
    if target.is_dir():
        target = target / path.name
    config.files.refuse_existing(target, flag="name")
    if not target.parent.is_dir():
        raise UserError(f"There is no folder {target.parent}: make it first.")
    replace_file(target, lambda file: file.write(path.read_bytes()))
    if not config.json:
        console.result(f"Copied to {console.escape(str(target))}. Edit it, then:")
        console.result(f"  {console.command_line('recipes validate', target)}")
        console.result(f"  {console.command_line(recipe.command, '--recipe', target)}")
    return {"recipe": name, "path": str(target)}


command = Command(
    "recipes copy", RecipesCopy, body, "Copy a recipe to edit it.", ("wasskit recipes copy mrl/imagenet100 mine.toml",)
)
