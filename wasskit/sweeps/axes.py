"""The axes of a grid and their combinations. Free of torch: completion reads it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from wasskit.config import (
    Field,
    RecipeOptions,
    build,
    check_keys,
    coerce,
    current_names,
    display,
    recipe_fields,
    values_of,
)
from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean

Axes = Mapping[str, Sequence[Any]]
C = TypeVar("C", bound=RecipeOptions)


@dataclass(frozen=True)
class Point(Generic[C]):
    """One combination: its settings, and the trainings it consists of."""

    settings: Mapping[str, Any]
    trainings: Mapping[str, C]
    """Path below the folder of the grid -> configuration."""


def parse_axes(
    words: Iterable[str], kind: type[RecipeOptions], names: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[Any]]:
    """``key=value,value`` for each axis -> values of the key's type; lists are written with colons, ``dims=8:16,8:32``.

    Keys joined by ``+`` vary together, ``loss+lr=contrastive:0.1,triplet:0.01``: an axis of tuples.

    Args:
        kind: the options of the trainings.
        names: axes that are no option of these, with their values.

    Raises:
        UserError: an unknown key (the nearest is named), a value out of range, the same key or value twice.
    """
    joined: list[str] = []
    for word in words:  # a recipe's list was cut at its commas
        if "=" in word or not joined:
            joined.append(word)
        else:
            joined[-1] += f",{word}"
    axes: dict[str, list[Any]] = {}
    for word in joined:
        key, equals, text = word.partition("=")
        typed = key.strip().lstrip("-").replace("-", "_")
        if not equals or not text:
            raise UserError(f"{word!r} is not an axis of a grid: write key=value,value, e.g. seed=0,1,2.")
        name, values = (_joint if "+" in typed else _values)(typed, text, word, kind, names or {})
        keys = name.split("+")
        for one in keys:
            if keys.count(one) > 1 or any(one in axis.split("+") for axis in axes):
                raise UserError(f"The axis {one} is given twice: join its values with commas.")
        if len(set(values)) < len(values):
            raise UserError(f"{word!r} names a value twice.")
        axes[name] = values
    if not axes:
        raise UserError("Name at least one axis of the grid, e.g. seed=0,1,2.")
    return axes


def _values(
    name: str, text: str, word: str, kind: type[RecipeOptions], names: Mapping[str, Sequence[str]]
) -> tuple[str, list[Any]]:
    """The axis by its own name, whether that, its flag or a former one is typed, and its values."""
    values = [value.strip() for value in text.split(",")]
    if name in names:
        for value in values:
            if value not in names[name]:
                advice = did_you_mean(value, names[name])
                raise UserError(f"{name}: {value!r} is not one of {', '.join(names[name])}.{advice}")
        return name, list(values)
    known = recipe_fields(kind)
    present = [(own, value) for each in values for own, value in current_names(kind, {name: each}).items()]
    own = present[0][0]
    if own not in known:
        check_keys(kind, {name: text}, "the grid")  # raises, with the nearest key
    return own, [_value(known[own], value, word) for _, value in present]


def _joint(
    name: str, text: str, word: str, kind: type[RecipeOptions], names: Mapping[str, Sequence[str]]
) -> tuple[str, list[Any]]:
    """Values of keys that vary together, in each of them one for each key, joined by colons."""
    keys, found = name.split("+"), []
    for values in text.split(","):
        parts = values.split(":")
        if len(parts) != len(keys):
            raise UserError(f"{word!r}: {values!r} must be a value for each of {', '.join(keys)}, joined by colons.")
        found.append([_values(key, part, word, kind, names) for key, part in zip(keys, parts, strict=True)])
    return "+".join(own for own, _ in found[0]), [tuple(value for _, (value,) in one) for one in found]


def _value(field: Field, value: Any, where: str) -> Any:
    return coerce(field, value.replace(":", ",") if field.kind.sequence else value, where)


def plan_points(base: C, axes: Axes) -> list[Point[C]]:
    """The combinations of the axes, each one training that differs from ``base`` in these settings.

    Raises:
        UserError: settings that contradict one another, with the combination.
    """
    kind, values = type(base), values_of(base)
    shared = {name: values[name] for name in recipe_fields(kind)}
    points = []
    for settings in combinations(axes):
        try:
            training = build(kind, {**shared, **settings})
        except UserError as error:
            raise UserError(f"{folder_name(settings)}: {error}") from None
        points.append(Point(settings, {folder_name(settings): training}))
    return points


def combinations(axes: Axes) -> list[dict[str, Any]]:
    """One value of each axis, in all ways; the last axis varies first."""
    return [
        {key: value for axis, one in zip(axes, chosen, strict=True) for key, value in _settings(axis, one)}
        for chosen in itertools.product(*axes.values())
    ]


def _settings(axis: str, value: Any) -> Iterable[tuple[str, Any]]:
    keys = axis.split("+")
    return zip(keys, value, strict=True) if len(keys) > 1 else [(axis, value)]


def folder_name(settings: Mapping[str, Any]) -> str:
    """The name of a combination's folder: ``lr-0.1__seed-2``."""
    return "__".join(f"{key}-{display(value).replace(',', ':').replace('/', '_')}" for key, value in settings.items())


def complete_axis(
    typed: str, kind: type[RecipeOptions], names: Mapping[str, Sequence[str]] | None = None
) -> Iterable[str]:
    """Candidates for an axis: ``key=``, and after it the values of an option that has few."""
    key, equals, text = typed.partition("=")
    names, known = names or {}, recipe_fields(kind)
    if not equals:
        return [f"{name}=" for name in (*names, *known) if name.startswith(typed)]
    before, comma, last = text.rpartition(",")
    choices: Sequence[str] = names.get(key, ())
    if key in known:
        choices = ("true", "false") if known[key].kind.base is bool else known[key].choices or ()
    return [f"{key}={before}{comma}{choice}" for choice in choices if choice.startswith(last)]
