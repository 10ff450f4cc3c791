"""The reference as Markdown, from the declarations: commands with their options, metrics, recipes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from wasskit.cli import GENERAL, GROUPS, load_command
from wasskit.config import Command, condition_phrase, fields_of
from wasskit.config.schema import Field
from wasskit.evaluation.metrics import COMMON, Metric
from wasskit.plugin import Plugin, load_plugin, plugin_targets
from wasskit.recipes import find_recipe, parse_recipe, recipe_names
from wasskit.text import markdown_text

ROOT = Path(__file__).resolve().parents[1]


def write_reference(folder: Path) -> list[Path]:
    """Write the pages of all commands, metrics and recipes into ``folder``, and those that lie beside the README.

    Pages in which nothing has changed stay as they are, so that a site is built again in the time of its changes.
    """
    plugins = [load_plugin(target) for target in plugin_targets().values() if target.startswith("wasskit.")]
    pages = {f"commands/{plugin.name}.md": page(plugin) for plugin in [*plugins, *GROUPS, GENERAL]}
    pages |= {"metrics.md": metrics_page(plugins), "recipes.md": recipes_page()}
    for name in ("results", "architecture", "changelog"):
        text = (ROOT / f"{name.upper()}.md").read_text(encoding="utf-8")
        pages[f"{name}.md"] = text.replace("](docs/", "](../")
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def metrics_page(plugins: Sequence[Plugin]) -> str:
    """Every declared metric: its heading, which way is better, its protocol."""
    parts = [
        "# Metrics",
        "Every metric that runs record, as it is declared: its name in `metrics.csv` (after the split), its heading in "
        "tables, which way is better, and how it is measured. A metric of one nested dimension is `name@dimension`.",
        "## All plugins",
        _metrics_table(COMMON.declared),
    ]
    for plugin in plugins:
        if plugin.metrics is not None:
            parts += [f"## {plugin.name}", _metrics_table(load_plugin(plugin.metrics).declared)]
    return "\n\n".join(parts) + "\n"


def prose(text: object) -> str:
    """Text for Markdown in which options, and what is between single backticks, are code."""
    pieces = re.split(r"`([^`]+)`|(?<![\w-])(--[a-z][\w-]*)", str(text))
    return "".join(
        markdown_text(piece) if i % 3 == 0 else f"`{piece}`" for i, piece in enumerate(pieces) if piece is not None
    )


def _metrics_table(declared: Iterable[Metric]) -> str:
    arrows = {"max": "larger", "min": "smaller", None: ""}
    rows = ["| name | heading | better | measured |", "| --- | --- | --- | --- |"]
    for metric in sorted(declared, key=lambda metric: metric.name):
        heading = metric.heading + (f" ({metric.unit})" if metric.unit else "")
        cells = [f"`{metric.name}`", markdown_text(heading), arrows[metric.order], prose(metric.protocol)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def recipes_page() -> str:
    """Every recipe: its title, its command, what was published."""
    parts = [
        "# Recipes",
        "Experiments with all their settings: `wasskit COMMAND --recipe NAME`. `wasskit recipes show NAME` prints one, "
        "`wasskit recipes copy NAME` gives a copy to edit. Options on the command line win over the recipe's.",
    ]
    for plugin, names in groupby(recipe_names(), key=lambda name: name.partition("/")[0]):
        rows = ["| recipe | command | what it is | published |", "| --- | --- | --- | --- |"]
        for name in names:
            recipe = parse_recipe(name, find_recipe(name)[1])
            source = markdown_text(recipe.paper.get("source", ""))
            rows.append(f"| `{name}` | `{recipe.command}` | {markdown_text(recipe.title)} | {source} |")
        parts += [f"## {plugin}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def page(plugin: Plugin) -> str:
    """All commands of a plugin: what each does, its examples, its options by panels."""
    name = "wasskit" if plugin is GENERAL else f"wasskit {plugin.name}"
    parts = [f"# {name}", prose(plugin.help)]
    for word in plugin.commands:
        parts += section(load_command(plugin, word))
    return "\n\n".join(parts) + "\n"


def section(command: Command) -> Iterator[str]:  # type: ignore[type-arg]
    """One command."""
    yield f"## {command.path}"
    yield "\n\n".join(prose(paragraph) for paragraph in command.help.split("\n\n"))
    if command.examples:
        yield "```bash\n" + "\n".join(command.examples) + "\n```"
    shown = [f for f in fields_of(command.options) if not f.option.hidden]
    for panel, fields in groupby(shown, key=lambda f: "Arguments" if f.option.positional else f.option.panel):
        rows = ["| option | meaning | default |", "| --- | --- | --- |"]
        rows += [f"| {_names(f)} | {_meaning(f)} | {_default(f)} |" for f in fields]
        yield f"**{panel}**\n\n" + "\n".join(rows)


def _names(f: Field) -> str:
    names = [f.flag, *([f.option.short] if f.option.short else [])]
    return ", ".join(f"`{name}`" for name in names)


def _meaning(f: Field) -> str:
    choices = f": {', '.join(f.choices)}" if f.choices else ""
    bounds = {"at least": f.option.min, "above": f.option.above, "at most": f.option.max, "below": f.option.below}
    limits = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]
    limits += [condition] if (condition := condition_phrase(f.option)) else []
    return prose(f.option.help.rstrip(".") + choices + (f" ({', '.join(limits)})" if limits else "") + ".")


def _default(f: Field) -> str:
    if f.option.show_default:
        return prose(f.option.show_default)
    if f.required:
        return "required"
    if isinstance(f.default, bool):
        return "on" if f.default else "off"
    if isinstance(f.default, tuple):
        return prose(",".join(map(str, f.default)))
    return "" if f.default is None else prose(f.default)
