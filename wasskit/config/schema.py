"""The schema of a configuration: its options with their types, bounds and defaults, and the check of a value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config.declaration import AS_NOW, METADATA, Changes, Option, OptionGroup, RecipeOptions, groups_of
from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean
from wasskit.text import controls

NONE = "none"
_LARGEST = {int: 2**63 - 1, float: 3.4e38}
"""What a tensor's whole number and a single-precision number can hold."""
PANELS = (
    "Options", "Method", "Uniformity", "Objective", "Study", "Runs", "Metrics", "Data", "Optimisation", "Potentials",
    "Model", "Views", "Classifier", "Autoencoder", "Embeddings", "Measures", "Conventions", "Evaluation", "Axes",
    "Table", "Figure", "", "Run", "Machine", "Cluster", "Output",
)  # fmt: skip
"""The panels of ``--help`` in their order; those of other packages come where there is no name."""


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
        word = _WORDS[self.base][0]
        return f"{word},..." if self.sequence else word

    @property
    def phrase(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        _, one, several = _WORDS[self.base]
        return f"a list of {several} separated by commas" if self.sequence else one


_WORDS = {
    int: ("INTEGER", "a whole number", "whole numbers"),
    float: ("NUMBER", "a number", "numbers"),
    str: ("TEXT", "a text", "texts"),
    Path: ("PATH", "a path", "paths"),
    bool: ("BOOL", "true or false", "truth values"),
}
"""What help and messages call a value of each type, one and several."""


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
    """One option of a configuration class: its name, its type, its default, its declaration.

    Args:
        path: the fields that lead to the group it belongs to; empty for one of the command's own.
    """

    name: str
    kind: Kind
    default: Any
    option: Option
    path: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def before(self) -> Any:
        """The value of the option in runs that were saved without it."""
        return self.default if self.option.absent is AS_NOW else self.option.absent

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


def fields_of(config_class: type[OptionGroup]) -> tuple[Field, ...]:
    """All options of a configuration class, those of its groups among them: arguments first, then by panel.

    Raises:
        TypeError: two groups have an option of the same name, or a type is none that an option can have.
    """
    if config_class in _fields_cache:
        return _fields_cache[config_class]
    found = list(_collected(config_class, None, (), Changes()))
    names = [f.name for f in found]
    if len(set(names)) < len(names):
        raise TypeError(f"{config_class.__name__}: two options have the same name: {', '.join(sorted(names))}")
    general = [f.name for f in dataclasses.fields(RecipeOptions)]
    rank = {panel: place for place, panel in enumerate(PANELS)}

    def place(f: Field) -> tuple[bool, int, bool]:
        if f.option.positional:
            return False, 0, False
        return True, rank.get(f.option.panel, rank[""]), f.name in general

    _fields_cache[config_class] = tuple(sorted(found, key=place))
    return _fields_cache[config_class]


def _collected(
    kind: type[OptionGroup], default: OptionGroup | None, path: tuple[str, ...], changes: Changes
) -> Iterator[Field]:
    """The options of a class in their order; of a group with the defaults of ``default``."""
    hints, groups = typing.get_type_hints(kind), groups_of(kind)
    for f in dataclasses.fields(kind):
        value = getattr(default, f.name) if default is not None else f.default
        declared = f.metadata.get(METADATA)
        if isinstance(declared, Option):
            yield Field(f.name, kind_of(hints[f.name]), value, _changed(declared, f, value, changes), path)
        elif f.name in groups:
            part = value if isinstance(value, OptionGroup) else None
            yield from _collected(groups[f.name], part, (*path, f.name), declared or Changes())


def _changed(declared: Option, f: dataclasses.Field[Any], value: Any, changes: Changes) -> Option:
    """A group's option as its command has it. Words for a computed default do not hold for one that is a value."""
    words = None if value is not None and value != f.default else declared.show_default
    help, words = changes.help.get(f.name, declared.help), changes.show_default.get(f.name, words)
    counts_with = changes.counts_with.get(f.name, declared.counts_with)
    hidden = declared.hidden or changes.hidden or counts_with == {}
    return dataclasses.replace(declared, help=help, show_default=words, counts_with=counts_with, hidden=hidden)


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
        raise UserError(f"{where}: {value!r} is not one of {', '.join(f.choices)}.{did_you_mean(value, f.choices)}")
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


def condition_phrase(o: Option) -> str:
    """What an option counts with, ``with --start pretrain`` or ``without --images``; empty if nothing is asked for."""
    phrases: dict[str, list[str]] = {"with": [], "without": []}
    for name, values in (o.counts_with or {}).items():
        flag, words = f"--{name.replace('_', '-')}", [value for value in values if value is not None]
        if words:
            phrases["with"].append(f"{flag} {', '.join(words)}")
        if None in values:
            phrases["without"].append(flag)
    return " or ".join(f"{word} {' or '.join(found)}" for word, found in phrases.items() if found)


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
