"""The schema of a configuration: options with their types, bounds and defaults, whichever source a value comes from."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean
from wasskit.text import controls

Completer = Callable[[str], Iterable[str | tuple[str, str]]]


@dataclass(frozen=True)
class ByCommand:
    """A completer whose candidates depend on the command: ``candidates(typed, command)``, say ``"mrl train"``."""

    candidates: Callable[[str, str], Iterable[str | tuple[str, str]]]


_METADATA = "wasskit"
NONE = "none"
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
) -> Any:
    """Declare a positional argument. A ``tuple[T, ...]`` type takes one or more values (none, if it has a default)."""
    metadata = {
        _METADATA: Option(help=help, complete=complete, metavar=metavar, transient=True, positional=True)
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
    if f.kind.optional and (value is None or value == NONE):
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
        return NONE
    if isinstance(value, tuple):
        return ",".join(display(entry) for entry in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
