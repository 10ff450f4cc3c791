"""One declaration per option: dataclass field -> command line option -> recipe key -> saved configuration.

A command declares a frozen dataclass whose fields are made by :func:`option` and :func:`argument`. From it come the
command line (:class:`Command`), the accepted recipe keys, the validation with one wording for every source, and the
``config.toml`` of a run. Precedence: command line, then recipe, then default.

This module imports neither torch nor numpy: it is on the path of ``--help`` and of tab completion.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from wasskit.errors import Interrupted, UserError
from wasskit.system.hints import did_you_mean
from wasskit.system.signals import Stopped
from wasskit.text import controls, short_text

if typing.TYPE_CHECKING:
    import typer

C = TypeVar("C", bound="CommandOptions")
Completer = Callable[[str], Iterable[str | tuple[str, str]]]


@dataclass(frozen=True)
class ByCommand:
    """A completer whose candidates depend on the command: ``candidates(typed, command)``, say ``"mrl train"``."""

    candidates: Callable[[str, str], Iterable[str | tuple[str, str]]]


_METADATA = "wasskit"
_NONE = "none"
_LARGEST = {int: 2**63 - 1, float: 3.4e38}
"""What a tensor's whole number and a single-precision number can hold."""


@dataclass(frozen=True)
class Option:
    """What is known of one option besides its name, type and default."""

    help: str
    panel: str = "Options"
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    complete: Completer | ByCommand | None = None
    short: str | None = None
    flag: str | None = None
    metavar: str | None = None
    transient: bool = False
    runtime: bool = False
    positional: bool = False
    show_default: str | None = None
    optional_value: str | None = None
    hidden: bool = False
    former: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    panel: str = "Options",
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    complete: Completer | ByCommand | None = None,
    short: str | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    transient: bool = False,
    runtime: bool = False,
    show_default: str | None = None,
    optional_value: str | None = None,
    hidden: bool = False,
    former: str | Mapping[str, Mapping[str, Any]] = "",
) -> Any:
    """Declare an option.

    Args:
        default: the value when neither the command line nor a recipe gives one; required options have none.
        help: one sentence, shown by ``--help``.
        panel: heading under which ``--help`` lists the option.
        min, max: inclusive bounds of a number, or of every entry of a list of numbers.
        above, below: exclusive bounds.
        choices: the allowed words of a string option (a ``Literal`` type says the same).
        complete: maps what has been typed to candidate values, for tab completion.
        short: a one-letter form such as ``-n``.
        flag: the long form where it differs from the field's name.
        transient: belongs to one invocation (``--json``): neither a recipe key nor saved.
        runtime: where and how fast a run happens (``--device``): saved, but may change when the run is resumed.
        show_default: words for a default that is computed.
        optional_value: what the option means when it is given without a value.
        hidden: accepted as in earlier versions, but of no effect and not shown.
        former: the name that the option had in earlier versions, which recipes, saved runs and command lines may still
            use; with what its values meant where they were other ones, ``{"batch_norm": {"sync": True}}``.
    """
    if isinstance(former, str):
        former = {former: {}} if former else {}
    metadata = {
        _METADATA: Option(
            help=help, panel=panel, min=min, max=max, above=above, below=below,
            choices=tuple(choices) if choices is not None else None, complete=complete, short=short, flag=flag,
            metavar=metavar, transient=transient, runtime=runtime, show_default=show_default,
            optional_value=optional_value, hidden=hidden, former=former,
        )
    }  # fmt: skip
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def argument(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    complete: Completer | ByCommand | None = None,
    metavar: str | None = None,
    saved: bool = False,
) -> Any:
    """Declare a positional argument. A ``tuple[T, ...]`` type takes one or more values (none, if it has a default).

    ``saved``: it is part of the configuration of a run, and a recipe may give it.
    """
    metadata = {
        _METADATA: Option(help=help, complete=complete, metavar=metavar, transient=not saved, positional=True)
    }
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options that every command has."""

    json: bool = option(
        False, help="Print the result as JSON on stdout.", panel="Output", transient=True, flag="--json"
    )
    quiet: bool = option(
        False,
        help="Print results and errors only.",
        panel="Output",
        transient=True,
        flag="--quiet",
        short="-q",
    )
    verbose: bool = option(
        False, help="Print more, and tracebacks of errors.", panel="Output", transient=True, flag="--verbose",
        short="-v",
    )  # fmt: skip

    def validate(self) -> None:
        """Check what concerns several options at once; raise :class:`UserError`. Subclasses call ``super()``."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(CommandOptions):
    """Options of commands whose settings can come from a recipe or from the saved configuration of a run."""

    recipe: str | None = option(
        None, help="Take settings from a recipe, by name or path; options given here win.", panel="Output",
        complete=ByCommand(lambda typed, command: _complete_recipes(typed, command)), transient=True,
    )  # fmt: skip


def _complete_recipes(typed: str, command: str) -> Iterable[str | tuple[str, str]]:
    from wasskit.recipes import complete_recipes

    return complete_recipes(typed, command)


# --- Types: what a field accepts, from whichever source -------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """The type of an option, taken apart."""

    base: type
    sequence: bool = False
    optional: bool = False
    choices: tuple[str, ...] | None = None

    @property
    def metavar(self) -> str:
        if self.choices:
            return "|".join(self.choices)
        word = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "BOOL"}[self.base]
        return f"{word},..." if self.sequence else word

    @property
    def phrase(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = {
            int: "a whole number",
            float: "a number",
            str: "a text",
            Path: "a path",
            bool: "true or false",
        }[self.base]
        if self.sequence:
            plural = {
                int: "whole numbers",
                float: "numbers",
                str: "texts",
                Path: "paths",
                bool: "truth values",
            }
            return f"a list of {plural[self.base]} separated by commas"
        return word


def kind_of(annotation: Any) -> Kind:
    """Take a field's type apart: ``int | None``, ``tuple[float, ...]``, ``Literal["a", "b"]``, ``Path`` ..."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"option types may be optional but not unions: {annotation}")
        return dataclasses.replace(kind_of(inner[0]), optional=True)
    if origin is Literal:
        return Kind(str, choices=typing.get_args(annotation))
    if origin is tuple:
        inner_type, ellipsis = typing.get_args(annotation)
        if ellipsis is not Ellipsis:
            raise TypeError(f"list options are written tuple[T, ...]: {annotation}")
        inner_kind = kind_of(inner_type)
        return Kind(inner_kind.base, sequence=True, choices=inner_kind.choices)
    if annotation in (int, float, str, bool, Path):
        return Kind(annotation)
    raise TypeError(f"unsupported option type {annotation}")


@dataclass(frozen=True)
class Field:
    """One option of a configuration class: its name, its type, its default, its declaration."""

    name: str
    kind: Kind
    default: Any
    option: Option

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        """What messages call it: the flag of an option, the word that stands for an argument."""
        if self.option.positional:
            return self.option.metavar or self.name.upper()
        return self.option.flag or "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...] | None:
        return self.option.choices or self.kind.choices


_fields_cache: dict[type, tuple[Field, ...]] = {}


def fields_of(config_class: type[CommandOptions]) -> tuple[Field, ...]:
    """All options of a configuration class, arguments first, the general ones last."""
    if config_class not in _fields_cache:
        hints = typing.get_type_hints(config_class)
        found = [
            Field(f.name, kind_of(hints[f.name]), f.default, f.metadata[_METADATA])
            for f in dataclasses.fields(config_class)
            if _METADATA in f.metadata
        ]
        general = {f.name for f in dataclasses.fields(RecipeOptions)}
        found.sort(key=lambda f: (not f.option.positional, not f.option.positional and f.name in general))
        _fields_cache[config_class] = tuple(found)
    return _fields_cache[config_class]


def coerce(f: Field, value: Any, where: str) -> Any:
    """Turn a command line text or a TOML value into the field's type and check its bounds.

    Args:
        where: names the source in messages, e.g. ``--epochs`` or ``key 'epochs' in my.toml``.

    Raises:
        UserError: the value has the wrong type or lies outside its bounds.
    """
    if f.kind.optional and (value is None or value == _NONE):
        return None
    if f.kind.sequence:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")] if value.strip() else []
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected {f.kind.phrase}, got {value!r}.")
        return tuple(_check(f, _scalar(f, entry, where), where) for entry in value)
    return _check(f, _scalar(f, value, where), where)


def _scalar(f: Field, value: Any, where: str) -> Any:
    base, wrong = f.kind.base, UserError(f"{where}: expected {f.kind.phrase}, got {value!r}.")
    if base is bool:
        if isinstance(value, bool):
            return value
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise wrong
    if base in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise wrong
        if base is int and isinstance(value, float):
            raise wrong
        try:
            return base(value)
        except (ValueError, OverflowError):
            raise wrong from None
    if isinstance(value, Path) and base is Path:
        return value
    if not isinstance(value, str):
        raise wrong
    if any(map(controls, value)):
        raise UserError(
            f"{where}: {value!r} holds a control character, a line break or an override of the direction of text: "
            "leave that out."
        )
    if base is Path:
        if not value:
            raise UserError(f"{where}: the path is empty.")
        return Path(value).expanduser()
    return value


def _check(f: Field, value: Any, where: str) -> Any:
    o = f.option
    if f.choices is not None and value not in f.choices:
        raise UserError(
            f"{where}: {value!r} is not one of {', '.join(f.choices)}.{did_you_mean(value, f.choices)}"
        )
    if f.kind.base in (int, float):
        if value != value or abs(value) == math.inf:
            raise UserError(f"{where}: expected a finite number, got {value}.")
        if abs(value) > _LARGEST[f.kind.base]:
            typed = str(value) if abs(value) < 10**24 or isinstance(value, float) else f"{str(value)[:24]}..."
            raise UserError(f"{where}: {typed} is too large a number.")
        if (
            (o.min is not None and value < o.min)
            or (o.max is not None and value > o.max)
            or (o.above is not None and value <= o.above)
            or (o.below is not None and value >= o.below)
        ):
            raise UserError(f"{where}: {value} is out of range, expected {bounds_phrase(o)}.")
    return value


def bounds_phrase(o: Option) -> str:
    """The range of an option in words, empty if it has none."""
    parts = []
    if o.min is not None:
        parts.append(f"at least {display(o.min)}")
    if o.above is not None:
        parts.append(f"above {display(o.above)}")
    if o.max is not None:
        parts.append(f"at most {display(o.max)}")
    if o.below is not None:
        parts.append(f"below {display(o.below)}")
    return " and ".join(parts)


def display(value: Any) -> str:
    """A value as it would be typed on the command line."""
    if value is None:
        return _NONE
    if isinstance(value, tuple):
        return ",".join(display(entry) for entry in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


# --- Resolution: command line over recipe over default ---------------------------------------------------------------


def recipe_fields(config_class: type[CommandOptions]) -> dict[str, Field]:
    """The options that a recipe or a saved configuration may set, by key."""
    return {f.name: f for f in fields_of(config_class) if not f.option.transient}


def check_keys(config_class: type[CommandOptions], options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Validate the ``[options]`` of a recipe against a command; return them with their proper types.

    Raises:
        UserError: an unknown key (the nearest valid one is named), a wrong type or an out-of-range value.
    """
    known = recipe_fields(config_class)
    values = {}
    for key, value in options.items():
        where = f"Key {short_text(repr(key))} in {source}"
        name, value = _current(config_class, key.replace("-", "_"), value, where)
        if name not in known:
            raise UserError(f"Unknown key {short_text(repr(key))} in {source}.{did_you_mean(name, known)}")
        if name in values:
            raise UserError(f"{where} is there twice, under two spellings: keep {name!r}.")
        values[name] = coerce(known[name], value, where)
    return values


def current_names(config_class: type[CommandOptions], options: Mapping[str, Any]) -> dict[str, Any]:
    """Saved options of an earlier version under the names and values that they have now."""
    return dict(_current(config_class, name, value, name) for name, value in options.items())


def _current(config_class: type[CommandOptions], name: str, value: Any, where: str) -> tuple[str, Any]:
    """The field that ``name`` means, whether its own name, its flag or a former one, and the value's present form."""
    fields = fields_of(config_class)
    if any(f.name == name for f in fields):
        return name, value
    for f in fields:
        if name == f.flag[2:].replace("-", "_"):
            return f.name, value
        if name in f.option.former:
            meanings = f.option.former[name]
            if not meanings:
                return f.name, value
            if not isinstance(value, str) or value not in meanings:
                raise UserError(f"{where}: {value!r} is not one of {', '.join(meanings)}.")
            return f.name, meanings[value]
    return name, value


def build(config_class: type[C], values: Mapping[str, Any]) -> C:
    """Make the configuration object from checked values and run its own validation."""
    config = config_class(**values)
    config.validate()
    return config


def to_options(config: CommandOptions) -> dict[str, Any]:
    """The configuration as plain TOML values: what :func:`check_keys` reads back to an equal configuration."""
    options: dict[str, Any] = {}
    for name, f in recipe_fields(type(config)).items():
        value = getattr(config, name)
        if value is None:
            if f.default is not None:
                options[name] = _NONE
        elif isinstance(value, tuple):
            options[name] = [str(v) if isinstance(v, Path) else v for v in value]
        else:
            options[name] = str(value) if isinstance(value, Path) else value
    return options


def fixed_keys(config_class: type[CommandOptions]) -> set[str]:
    """The keys that a resumed run may not change: all but those declared ``runtime``."""
    return {name for name, f in recipe_fields(config_class).items() if not f.option.runtime}


# --- Commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invocation:
    """What a command's body may want to know of how it was called."""

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
    """

    path: str
    options: type[C]
    body: Callable[[C, Invocation], Mapping[str, Any] | None]
    help: str
    examples: tuple[str, ...] = ()

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
        optional = {
            f.flag: f.option.optional_value for f in fields_of(self.options) if f.option.optional_value
        }
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
                raise UserError(
                    f"{f.flag} is given more than once: it takes {f.kind.phrase}, as in {f.flag} A,B."
                )
            seen.add(parameter.name)

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
            given = {
                name: value
                for name, value in values.items()
                if getattr(ctx.get_parameter_source(name), "name", "") in ("COMMANDLINE", "ENVIRONMENT")
            }
            self.run(given)

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        call.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in [context, *parameters]}
        return call

    def resolve(self, given: Mapping[str, Any]) -> tuple[C, Mapping[str, Any] | None]:
        """Merge command line values (unconverted) over the recipe over the defaults.

        Returns:
            The configuration, and the whole recipe if one was named.
        """
        by_name = {f.name: f for f in fields_of(self.options)}
        given = self.current(given)
        values: dict[str, Any] = {}
        recipe = None
        named = given.get("recipe")
        if isinstance(named, str) and issubclass(self.options, RecipeOptions):
            from wasskit.recipes import load_recipe

            recipe = load_recipe(named, command=self.path)
            values.update(check_keys(self.options, recipe.options, f"recipe {recipe.path}"))
        for name, value in given.items():
            f = by_name[name]
            values[name] = coerce(f, value, f.flag)
        return build(self.options, values), recipe.document if recipe else None

    def current(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Command line values by the names of their fields, whatever former names they were given under.

        Raises:
            UserError: an option is given under two names.
        """
        values: dict[str, Any] = {}
        for typed, value in given.items():
            flag = "--" + typed.replace("_", "-")
            name, value = _current(self.options, typed, value, flag)
            if name in values:
                raise UserError(f"{flag} is the former name of --{name.replace('_', '-')}: give one of them.")
            values[name] = value
        return values

    def run(self, given: Mapping[str, Any]) -> None:
        """Resolve the configuration and call the body; on several processes if ``nproc`` asks for them."""
        from wasskit import console

        console.configure(
            quiet=bool(given.get("quiet")), verbose=bool(given.get("verbose")), json=bool(given.get("json"))
        )
        given = self.current(given)
        config, recipe = self.resolve(given)
        argv = _argv.get() or tuple(sys.argv[1:])
        nproc = getattr(config, "nproc", 1)
        if nproc > 1 and "RANK" not in os.environ:
            from wasskit.distributed.launch import launch

            code = launch(nproc, list(argv))
            if code:
                raise _ExitWith(code)
            return
        invocation = Invocation(self.path, argv, frozenset(given), recipe)
        try:
            result = self.body(config, invocation)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, "Interrupted.") from None
        except Stopped as stop:
            raise Interrupted(stop.signal_number, str(stop)) from None
        if config.json and result is not None and console.is_main_process():
            console.print_json(result)


def _command_class(declared: Command[Any]) -> Any:
    from typer.core import TyperCommand

    from wasskit.usage import parsing

    class DeclaredCommand(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            filled = declared.fill_optional_values(args)
            # First, so that --help is answered and not judged.
            with parsing(ctx):
                rest: list[str] = super().parse_args(ctx, list(filled))
            if not ctx.resilient_parsing:
                declared.refuse_repeated_lists(self.make_parser(ctx).parse_args(args=filled)[2])
            return rest

    return DeclaredCommand


class _ExitWith(Exception):
    """Leave with the exit code of launched processes, which have said what there was to say."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Argv:
    """The command line being run, which differs from ``sys.argv`` when commands are called in-process."""

    value: tuple[str, ...] | None = None

    def get(self) -> tuple[str, ...] | None:
        return self.value


_argv = _Argv()


def _is_flag(f: Field) -> bool:
    return f.kind.base is bool and not f.kind.sequence


def _typer_annotation(f: Field) -> Any:
    if _is_flag(f):
        return bool | None if f.kind.optional else bool
    if f.option.positional and f.kind.sequence:
        return list[str] | None if not f.required else list[str]
    return str if f.required else str | None


def _typer_parameter(f: Field, command: str) -> Any:
    import typer

    o = f.option
    completion = None
    if o.complete is not None:
        complete = o.complete

        def completion(incomplete: str) -> list[Any]:
            if isinstance(complete, ByCommand):
                return list(complete.candidates(incomplete, command))
            return list(complete(incomplete))

    elif f.choices is not None:
        choices = f.choices

        def completion(incomplete: str) -> list[Any]:
            return [choice for choice in choices if choice.startswith(incomplete)]

    help_text = o.help
    bounds = bounds_phrase(o)
    if bounds:
        help_text = f"{help_text} [dim]({bounds})[/dim]"
    metavar = o.metavar or f.kind.metavar
    if o.choices and not o.metavar:
        metavar = "|".join(o.choices)
    if o.positional:
        # A list's default is the configuration's own: older Click knows none for arguments that take many values.
        default: Any = ... if f.required else (None if f.kind.sequence else f.default)
        return typer.Argument(
            default,
            help=help_text,
            metavar=f.flag,
            autocompletion=completion,
            show_default=False,
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
