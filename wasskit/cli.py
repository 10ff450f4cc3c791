"""The root command: mounts the plugins lazily and turns expected failures into one sentence.

Three levels are loaded only when they are called: the list of plugins, one plugin's list of commands, one command's
options. ``--help`` of a level costs the names and one-line helps of the next.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from wasskit.config import Command, OptionGroup, RecipeOptions, build, check_keys
from wasskit.distributed.launch import owns_ranks
from wasskit.errors import UserError, WasskitError
from wasskit.plugin import Plugin, declared_models, load_plugin, plugin_of, plugin_targets
from wasskit.recipes import find_recipe, parse_recipe
from wasskit.system.processes import watch_parent
from wasskit.system.signals import Stopped, raised, stop_behind
from wasskit.usage import PARSER_ERRORS, HelpFlag, no_such_command, parsing, sentence

GENERAL = Plugin(
    name="wasskit",
    help="Learn and measure representations with Wasserstein distances.",
    commands={
        "info": "Show versions, devices and the data sets found.",
        "sweep": "Train a grid of settings of any training command.",
    },
    package="wasskit.commands",
)
RECIPES = Plugin(
    name="recipes",
    help="List, show, copy and validate the published experiments.",
    commands={
        "list": "List the recipes.",
        "show": "Print a recipe.",
        "copy": "Copy a recipe to edit it.",
        "validate": "Check recipes against the commands they configure.",
    },
    package="wasskit.commands.recipes",
)
DATA = Plugin(
    name="data",
    help="Prepare data sets for fast training.",
    commands={
        "pack": "Decode and resize images once, into files that training copies from.",
        "verify": "Compare packs with their checksums.",
    },
    package="wasskit.commands.data",
)
COMPLETIONS = Plugin(
    name="completions",
    help="Tab completion for bash, zsh, fish and PowerShell.",
    commands={
        "show": "Print the completion script of a shell.",
        "install": "Install completion for a shell.",
        "write": "Write the scripts of all shells into a folder.",
    },
    package="wasskit.commands.completions",
)

GROUPS = (RECIPES, DATA, COMPLETIONS)
"""The groups of commands that belong to no plugin."""

EPILOG = "Start with [bold]wasskit mrl train[/bold]: real images, two cores, under a minute, no download."


@dataclass(frozen=True)
class Entry:
    """A subcommand that has not been loaded: its help and how to get it."""

    help: str
    load: Callable[[], Any]


class LazyGroup(HelpFlag, TyperGroup):
    """A group whose subcommands are loaded when they are called, not when they are listed."""

    entries: Mapping[str, Entry]
    _resolving = False

    def set_entries(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        # TAB shows `short_help`, and cuts `help` to 45 characters without it.
        self.commands = {
            name: TyperCommand(name, help=entry.help, short_help=" ".join(entry.help.partition("\n\n")[0].split()))
            for name, entry in entries.items()
        }

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._resolving and cmd_name in self.entries:
            return self.entries[cmd_name].load()
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise UserError(no_such_command(ctx.command_path, args[0], self.commands))
        self._resolving = True
        try:
            return super().resolve_command(ctx, args)
        finally:
            self._resolving = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with parsing(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> None:
        """What a foreign command returns is not an exit code: it is dropped."""
        super().invoke(ctx)


def _version(value: bool) -> None:
    if value:
        from wasskit import __version__

        typer.echo(f"wasskit {__version__}")
        raise typer.Exit()


def _make_group(name: str, help_text: str, entries: Mapping[str, Entry], *, root: bool = False) -> Any:
    app = typer.Typer(
        name=name, cls=LazyGroup, help=help_text, epilog=EPILOG if root else None, add_completion=False,
        rich_markup_mode="rich", invoke_without_command=True,
    )  # fmt: skip
    if root:

        def callback(
            ctx: typer.Context,
            version: bool = typer.Option(
                False, "--version", help="Show the version and exit.", callback=_version, is_eager=True
            ),
        ) -> None:
            _help_without_command(ctx)

    else:

        def callback(ctx: typer.Context) -> None:  # type: ignore[misc]
            _help_without_command(ctx)

    app.callback()(callback)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    group.set_entries(entries)
    return group


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit()


def load_command(plugin: Plugin, name: str) -> Command[Any]:
    """The declaration of one command of a plugin."""
    if name in ("embed", "export") and plugin.model is not None and name not in plugin.aliases:
        from wasskit.trained.commands import standard_command

        choices = load_plugin(plugin.choices) if plugin.choices else OptionGroup
        return standard_command(plugin.name, name, plugin.commands[name], lambda: declared_models(plugin), choices)
    return typing.cast("Command[Any]", plugin.find(name))


def plugin_group(plugin: Plugin) -> Any:
    """The group of a plugin's commands, none of them loaded, with the groups among them."""

    def entry(name: str, help_text: str) -> Entry:
        return Entry(help_text, lambda: load_command(plugin, name).build())

    def subgroup(group: str) -> Entry:
        return Entry(plugin.groups[group], lambda: _make_group(group, plugin.groups[group], within[group]))

    entries: dict[str, Entry] = {}
    within: dict[str, dict[str, Entry]] = {}
    for name, text in plugin.commands.items():
        group, space, own = name.partition(" ")
        if space:
            within.setdefault(group, {})[own] = entry(name, text)
        entries[group] = subgroup(group) if space else entry(name, text)
    return _make_group(plugin.name, plugin.help, entries)


def find_command(path: str) -> Command[Any]:
    """The declaration of a command named as it is typed, e.g. ``"mrl train"`` or ``"sweep"``.

    Raises:
        UserError: there is no such command.
    """
    if path in GENERAL.commands:
        return load_command(GENERAL, path)
    plugin_name, _, name = path.partition(" ")
    plugin = plugin_of(plugin_name)
    if plugin is None or name not in plugin.commands:
        raise UserError(f"There is no command `wasskit {path}`.")
    return load_command(plugin, name)


def validate_recipe(named: str) -> str:
    """Check one recipe, given by name or path, as strictly as a run would; return its name.

    Raises:
        UserError: what is wrong, where, with the nearest valid name.
    """
    name, path = find_recipe(named)
    recipe = parse_recipe(name, path)
    try:
        command = find_command(recipe.command)
    except UserError as error:
        raise UserError(f"Recipe {path}: {error}") from None
    if not issubclass(command.options, RecipeOptions):
        raise UserError(f"Recipe {path}: `wasskit {recipe.command}` takes no recipe.")
    try:
        values = check_keys(command.options, recipe.options, f"recipe {path}")
        build(command.options, values)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"Recipe {path}: {message}") from None
    return name


def _plugin_entry(name: str, target: str) -> Entry | None:
    """The entry of a plugin; a broken third-party one is reported in one line and left out."""
    try:
        plugin = load_plugin(target)
    except Exception as error:
        from wasskit import console

        console.warn(f"plugin {name!r} ({target}) could not be loaded and is left out: {error}")
        return None
    if isinstance(plugin, Plugin):
        return Entry(plugin.help, lambda: plugin_group(plugin))
    if isinstance(plugin, typer.Typer):
        return Entry(str(plugin.info.help or ""), lambda: typer.main.get_command(plugin))
    from wasskit import console

    console.warn(f"plugin {name!r} ({target}) is neither a Plugin nor a typer.Typer and is left out.")
    return None


def build_root(called: str | None = None) -> Any:
    """The whole command, with nothing loaded but names and one-line helps.

    Args:
        called: the subcommand that will run, where that is known: no other plugin is then touched.
    """
    entries: dict[str, Entry] = {}
    targets = plugin_targets()
    if called in targets:
        targets = {called: targets[called]}
    elif called in (*(group.name for group in GROUPS), *GENERAL.commands):
        targets = {}
    for name, target in targets.items():
        entry = _plugin_entry(name, target)
        if entry is not None:
            entries[name] = entry
    entries["recipes"] = Entry(RECIPES.help, lambda: plugin_group(RECIPES))
    entries["data"] = Entry(DATA.help, lambda: plugin_group(DATA))
    for name, text in GENERAL.commands.items():
        entries[name] = Entry(text, lambda name=name: load_command(GENERAL, name).build())  # type: ignore[misc]
    entries["completions"] = Entry(COMPLETIONS.help, lambda: plugin_group(COMPLETIONS))
    return _make_group("wasskit", GENERAL.help, entries, root=True)


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code. The one place where errors become sentences.

    Exit codes: 0 done, 1 failed, 2 the request was wrong, 128 + signal interrupted.
    """
    try:
        completing = "_WASSKIT_COMPLETE" in os.environ
        if completing:
            import typer.completion

            # Not part of Typer's declared surface, but the only way to its completion classes without the two
            # options that `add_completion` would add to our command.
            typer.completion.completion_init()  # type: ignore[attr-defined]
        called = argv[0] if argv and not completing else None
        code = build_root(called).main(
            args=list(argv), prog_name="wasskit", complete_var="_WASSKIT_COMPLETE", standalone_mode=False,
            obj=tuple(argv),
        )  # fmt: skip
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt:
        return 130
    except Stopped as stop:
        return 128 + stop.signal_number
    except Exception as error:
        return _report(error, argv)
    return code or 0


def _report(error: Exception, argv: Sequence[str]) -> int:
    from wasskit import console
    from wasskit.data.catalog import CARDS

    said, code = _explain(error)
    if console.is_verbose() or said is None:
        import traceback

        traceback.print_exception(error)
    if said is None:
        said = (
            f"Unexpected {type(error).__name__}: {error}. This is a fault of wasskit or of a library it uses; "
            "please report the lines above with the command."
        )
    rank = os.environ.get("RANK")
    if rank not in (None, "0") and code == 2 and not owns_ranks():
        return code  # torchrun and srun show every rank's words; our launcher those of the rank that failed
    prefix = "" if rank in (None, "0") else f"(rank {rank}) "
    first = said.split(" ")[0]
    if first.isalpha() and not os.path.lexists(first) and first not in {*argv, *CARDS}:
        said = said[0].upper() + said[1:]
    if said[-1].isalnum() or said[-1] in "\"')`":
        said += "."
    console.stderr().print(f"[bold red]Error:[/bold red] {prefix}{console.escape(said)}")
    return code


def _explain(error: Exception) -> tuple[str | None, int]:
    """The sentence and the exit code of an error; None for an unexpected error."""
    if isinstance(error, WasskitError):
        return str(error), error.exit_code
    if (stop := stop_behind(error)) is not None:
        return str(stop), 128 + stop.signal_number
    if isinstance(error, PARSER_ERRORS):
        return sentence(error), 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (f"The disk is full{where}: nothing already saved is lost; free some space and run it again.", 2)
        if isinstance(error, PermissionError):
            return f"No permission{where}: choose another folder or change its permissions.", 2
        if error.filename and error.strerror:
            return f"{error.strerror}: {error.filename}.", 2
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # Path.resolve, until 3.12
        return f"{str(error).removeprefix('Symlink loop from ')} is a link that leads back to itself.", 2
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        name = error.object[:200].encode("utf-8", "backslashreplace").decode()
        return f"A name is not valid UTF-8, which the files of a run cannot hold: rename it ({name}).", 2
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return f"A data loading process died ({error}); memory may have run out: take fewer --workers.", 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _lacks_memory(str(error))):
        return "This machine ran out of memory: use a smaller batch or fewer workers.", 1
    return None, 1


def _lacks_memory(message: str) -> bool:
    """Whether a RuntimeError of torch says that a tensor does not fit into the host's memory."""
    return "can't allocate memory" in message or "Storage size calculation overflowed" in message


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that are not valid UTF-8
    watch_parent()
    with raised():
        code = run(sys.argv[1:])
    # The command has finished. From here a Ctrl-C ends the process at once, where Python would print a traceback of
    # whatever it is tearing down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
