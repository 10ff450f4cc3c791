"""A command: from its declaration to Typer, and from a command line to the call of its body."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from wasskit.config.declaration import ByCommand, ByWords
from wasskit.config.resolution import C, given_by_name, refuse_idle, resolve, values_of, values_of_effect
from wasskit.config.schema import Field, bounds_phrase, condition_phrase, display, fields_of
from wasskit.errors import Interrupted, UserError
from wasskit.system.memory import out_of_memory
from wasskit.system.signals import Stopped

if typing.TYPE_CHECKING:
    import typer


_LAUNCH = {"nproc": 1, "nnodes": 1, "max_restarts": 0}
"""The options that ask for processes, and what they are without."""


_WIDEST = 12
"""Letters of the choices of an option that fit a line of its help in a terminal of 80 columns."""


@dataclass(frozen=True)
class Invocation:
    """How a command was called."""

    command: str
    argv: tuple[str, ...]
    given: frozenset[str]
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Command(Generic[C]):
    """A command: its options, its body, its help.

    Args:
        path: the words that call it, e.g. ``"mrl train"``; recipes name it in their ``command`` key.
        options: the configuration class.
        body: called with the configuration and the invocation; returns a mapping that ``--json`` prints, or None.
            It imports what it runs.
        help: first line: what it does; further paragraphs are shown by ``--help``.
        examples: worked command lines, shown at the end of ``--help``.
        stray: said, after a space, of an option that the command does not have.
    """

    path: str
    options: type[C]
    body: Callable[[C, Invocation], Mapping[str, Any] | None]
    help: str
    examples: tuple[str, ...] = ()
    stray: str = ""

    @property
    def name(self) -> str:
        return self.path.split()[-1]

    def build(self) -> Any:
        """The Typer command."""
        import typer
        import typer.main

        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        epilog = None
        if self.examples:
            epilog = "\n\n".join(f"[bold]$[/bold] {line}" for line in self.examples)
        app.command(name=self.name, help=self.help, epilog=epilog, cls=_command_class(self))(self._function())
        return typer.main.get_command(app)

    def fill_optional_values(self, args: Sequence[str]) -> list[str]:
        """Give options whose value may be left out (``--resume``) the value that their absence means."""
        optional = {f.flag: f.option.optional_value for f in fields_of(self.options) if f.option.optional_value}
        filled = []
        for word, following in zip(args, [*args[1:], "-"], strict=False):
            bare = word in optional and following.startswith("-")
            filled.append(f"{word}={optional[word]}" if bare else word)
        return filled

    def refuse_repeated_lists(self, parameters: Sequence[Any]) -> None:
        """Refuse a list option that is given more than once, as only its last value would count.

        Args:
            parameters: the parser's parameter of each option on the command line, in their order.

        Raises:
            UserError: names the option.
        """
        lists = {f.name: f for f in fields_of(self.options) if f.kind.sequence and not f.option.positional}
        seen: set[str] = set()
        for parameter in parameters:
            f = lists.get(parameter.name)
            if f is not None and f.name in seen:
                raise UserError(f"{f.flag} is given more than once: it takes {f.kind.phrase}, as in {f.flag} A,B.")
            seen.add(parameter.name)

    def refuse_spaced_lists(self, args: Sequence[str]) -> None:
        """Refuse ``--dims 8 16`` by a sentence on lists, where the command takes no arguments that 16 could be.

        Raises:
            UserError: names the option.
        """
        fields = fields_of(self.options)
        if any(f.option.positional for f in fields):
            return
        lists = {f.flag for f in fields if f.kind.sequence}
        for flag, value, following in zip(args, args[1:], args[2:], strict=False):
            if flag in lists and not following.startswith("-"):
                raise UserError(f"{flag} takes a list separated by commas: {flag} {value.rstrip(',')},{following}.")

    def _function(self) -> Callable[..., None]:
        import typer

        parameters = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=_typer_parameter(f, self.path),
                annotation=_typer_annotation(f),
            )
            for f in fields_of(self.options)
        ]
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=_former_parameter(f, name),
                annotation=bool if _is_flag(f) and not meanings else str | None,
            )
            for f in fields_of(self.options)
            for name, meanings in f.option.former.items()
        ]

        def call(ctx: typer.Context, **values: Any) -> None:
            argv = ctx.find_root().obj
            self.run(_given(ctx, values), tuple(sys.argv[1:] if argv is None else argv))

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        call.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in [context, *parameters]}
        return call

    def parse(self, argv: Sequence[str]) -> tuple[C, Mapping[str, Any] | None, frozenset[str]]:
        """What a command line asks for, without running it.

        Returns:
            The configuration, the whole recipe if one was named, and the names of the options given.

        Raises:
            UserError: a value or the recipe is wrong.
        """
        context = self.build().make_context(self.name, list(argv))
        given = given_by_name(self.options, _given(context, context.params))
        return *resolve(self.options, self.path, given), frozenset(given)

    def run(self, given: Mapping[str, Any], argv: tuple[str, ...]) -> None:
        """Resolve the configuration and call the body; on several processes if ``nproc`` asks for them.

        Args:
            given: values of the command line, unconverted.
            argv: the command line after ``wasskit``.
        """
        import typer

        from wasskit import console

        console.configure(
            quiet=bool(given.get("quiet")), verbose=bool(given.get("verbose")), json=bool(given.get("json"))
        )
        given = given_by_name(self.options, given)
        config, recipe = resolve(self.options, self.path, given)
        values = values_of(config)
        alone = "jobs" not in values  # of commands that train many times the trainings are jobs and have ranks
        # What settings count with, a run that is resumed has saved, and axes of a grid may say.
        if alone and values.get("resume") is None:
            refuse_idle(config, given, self.path)
        if "RANK" not in os.environ:
            if alone and values.get("submit") is not None:
                self._submit(argv, values, frozenset(given))
                return
            nproc, nnodes, restarts = (values.get(name, n) for name, n in _LAUNCH.items())
            if nproc > 1 or nnodes > 1 or (restarts and alone):
                from wasskit.distributed.launch import launch

                endpoint = values.get("rdzv_endpoint")
                code = launch(nproc, argv, nnodes=nnodes, endpoint=endpoint, max_restarts=restarts)
                raise typer.Exit(code)  # the processes have printed their own messages
        invocation = Invocation(self.path, argv, frozenset(given), recipe)
        try:
            result = self.body(config, invocation)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, "Interrupted.") from None
        except Stopped as stop:
            raise Interrupted(stop.signal_number, str(stop)) from None
        except RuntimeError as error:
            lacking = out_of_memory(error, values_of_effect(config))
            if lacking is None:
                raise
            raise lacking from error
        if config.json and result is not None and console.is_main_process():
            console.print_json(result)

    def _submit(self, argv: Sequence[str], values: Mapping[str, Any], given: frozenset[str]) -> None:
        from wasskit import console
        from wasskit.cluster.submit import submit_training

        flags = {f.flag: not _is_flag(f) for f in fields_of(self.options) if f.option.panel == "Cluster"}
        result = submit_training(self.path, argv, values, given, flags)
        if values["json"]:
            console.print_json(result)


def _given(ctx: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parsed values that were given, unconverted."""
    return {
        name: value
        for name, value in values.items()
        # Older Click says of an argument that takes many values and got none that it was given None.
        if value is not None and getattr(ctx.get_parameter_source(name), "name", "") in ("COMMANDLINE", "ENVIRONMENT")
    }


def _command_class(declared: Command[Any]) -> Any:
    from typer.core import TyperCommand

    from wasskit.usage import PARSER_ERRORS, HelpFlag, parsing

    class DeclaredCommand(HelpFlag, TyperCommand):
        stray = declared.stray

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            filled = declared.fill_optional_values(args)
            # First, so that --help wins over the checks below.
            with parsing(ctx):
                try:
                    rest: list[str] = super().parse_args(ctx, list(filled))
                except PARSER_ERRORS:
                    declared.refuse_spaced_lists(filled)
                    raise
            if not ctx.resilient_parsing:
                declared.refuse_repeated_lists(self.make_parser(ctx).parse_args(args=filled)[2])
            return rest

    return DeclaredCommand


def _is_flag(f: Field) -> bool:
    return f.kind.base is bool and not f.kind.sequence


def _typer_annotation(f: Field) -> Any:
    if _is_flag(f):
        return bool | None if f.kind.optional else bool
    if f.option.positional and f.kind.sequence:
        return list[str] | None if not f.required else list[str]
    return str if f.required else str | None


def _completion(f: Field, command: str) -> Callable[[Any, str], list[Any]] | None:
    """What offers values of an option as they are typed, in Typer's form."""
    complete = f.option.complete
    if complete is None and f.choices is None:
        return None

    def completion(ctx: Any, incomplete: str) -> list[Any]:
        if isinstance(complete, ByCommand):
            return list(complete.candidates(incomplete, command))
        if isinstance(complete, ByWords):
            return list(complete.candidates(incomplete, ctx.params.get(f.name) or ()))
        if complete is not None:
            return list(complete(incomplete))
        return [choice for choice in f.choices or () if choice.startswith(incomplete)]

    return completion


def _typer_parameter(f: Field, command: str) -> Any:
    import typer

    o = f.option
    completion = _completion(f, command)
    help_text = o.help
    condition = condition_phrase(o)
    for note in (bounds_phrase(o), condition):
        help_text += f" [dim]({note})[/dim]" if note else ""
    metavar = o.metavar or f.kind.metavar
    if o.choices and not o.metavar:
        metavar = "|".join(o.choices)
    if len(metavar) > _WIDEST:  # wrapped between its choices, not within one
        metavar = metavar.replace("|", " | ")
    if o.positional:
        # A list's default is the configuration's own: older Click knows none for arguments that take many values.
        default: Any = ... if f.required else (None if f.kind.sequence else f.default)
        return typer.Argument(
            default, help=help_text, metavar=o.metavar or f.name.upper(), autocompletion=completion, show_default=False
        )
    names = [f.flag] + ([o.short] if o.short else [])
    help_text += f" [dim]\\[default: {o.show_default}][/dim]" if o.show_default else ""
    if _is_flag(f):
        if o.flag is None:
            names[0] = f"{f.flag}/--no-{f.flag[2:]}"
        return typer.Option(
            f.default,
            *names,
            help=help_text,
            hidden=o.hidden,
            rich_help_panel=o.panel,
            show_default=o.flag is None and o.show_default is None,
        )
    default = ... if f.required else (display(f.default) or None if f.default is not None else None)
    return typer.Option(
        default,
        *names,
        help=help_text,
        hidden=o.hidden,
        metavar=metavar,
        rich_help_panel=o.panel,
        autocompletion=completion,
        show_default=default is not None and default is not ... and o.show_default is None,
    )


def _former_parameter(f: Field, name: str) -> Any:
    """The hidden option that a former name still is."""
    import typer

    flag = "--" + name.replace("_", "-")
    if _is_flag(f) and not f.option.former[name]:
        return typer.Option(f.default, flag if f.option.flag else f"{flag}/--no-{flag[2:]}", hidden=True)
    return typer.Option(None, flag, hidden=True)
