"""The reference of all commands as Markdown, from their declarations: one page for each plugin."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from wasskit.cli import COMPLETIONS, GENERAL, RECIPES, load_command
from wasskit.config import Command, fields_of
from wasskit.config.schema import Field
from wasskit.plugin import Plugin, load_plugin, plugin_targets
from wasskit.text import markdown_text


def write_reference(folder: Path) -> list[Path]:
    """Write a page for each plugin of this package, and one for what belongs to none; those that are there stay as they
    are where nothing has changed, so that a site is built in the time of its changes."""
    folder.mkdir(parents=True, exist_ok=True)
    plugins = [load_plugin(target) for target in plugin_targets().values() if target.startswith("wasskit.")]
    written = []
    for plugin in [*plugins, RECIPES, COMPLETIONS, GENERAL]:
        path = folder / f"{plugin.name}.md"
        text = page(plugin)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def page(plugin: Plugin) -> str:
    """All commands of a plugin: what each does, its examples, its options by panels."""
    name = "wasskit" if plugin is GENERAL else f"wasskit {plugin.name}"
    parts = [f"# {name}", markdown_text(plugin.help)]
    for word in plugin.commands:
        parts += section(load_command(plugin, word))
    return "\n\n".join(parts) + "\n"


def section(command: Command) -> Iterator[str]:  # type: ignore[type-arg]
    """One command."""
    yield f"## {command.path}"
    yield "\n\n".join(markdown_text(paragraph) for paragraph in command.help.split("\n\n"))
    if command.examples:
        yield "```bash\n" + "\n".join(command.examples) + "\n```"
    shown = [f for f in fields_of(command.options) if not f.option.hidden]
    for panel, fields in groupby(shown, key=lambda f: "Arguments" if f.option.positional else f.option.panel):
        rows = ["| | | default |", "| --- | --- | --- |"]
        rows += [f"| {_names(f)} | {_meaning(f)} | {_default(f)} |" for f in fields]
        yield f"**{panel}**\n\n" + "\n".join(rows)


def _names(f: Field) -> str:
    names = [f.flag, *([f.option.short] if f.option.short else [])]
    return ", ".join(f"`{name}`" for name in names)


def _meaning(f: Field) -> str:
    choices = f": {', '.join(f.choices)}" if f.choices else ""
    bounds = {"at least": f.option.min, "above": f.option.above, "at most": f.option.max, "below": f.option.below}
    limits = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]
    return markdown_text(f.option.help.rstrip(".") + choices + (f" ({', '.join(limits)})" if limits else "") + ".")


def _default(f: Field) -> str:
    if f.option.show_default:
        return markdown_text(f.option.show_default)
    if f.required:
        return "required"
    if isinstance(f.default, bool):
        return "on" if f.default else "off"
    if isinstance(f.default, tuple):
        return markdown_text(",".join(map(str, f.default)))
    return "" if f.default is None else markdown_text(f.default)
