"""The combinations of a grid: each a configuration, or several, of ``wasskit mrl train``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wasskit.config import (
    Field,
    build,
    check_keys,
    coerce,
    display,
    recipe_fields,
    values_of,
)
from wasskit.errors import UserError
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.options import TrainingOptions, default_dims, methods

Axes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and the trainings it consists of (one per dimension, if independent)."""

    settings: Mapping[str, Any]
    trainings: Mapping[str, MrlTrain]
    """Path below the folder of the grid -> configuration."""


def parse_axes(words: Iterable[str]) -> dict[str, list[Any]]:
    """``key=value,value`` for each axis -> values of the key's type; lists are written with colons,
    ``dims=8:16,8:32``.

    Raises:
        UserError: an unknown key (the nearest is named), a value out of range, the same key or value twice.
    """
    joined: list[str] = []
    for word in words:  # a recipe's list was cut at its commas
        if "=" in word or not joined:
            joined.append(word)
        else:
            joined[-1] += f",{word}"
    known = recipe_fields(MrlTrain)
    axes: dict[str, list[Any]] = {}
    for word in joined:
        key, equals, text = word.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not text:
            raise UserError(f"{word!r} is not an axis of a grid: write key=value,value, e.g. beta=0.1,1,10.")
        if name in axes:
            raise UserError(f"The axis {name} is given twice: join its values with commas.")
        if name == "method":
            values: list[Any] = [_method(value.strip()) for value in text.split(",")]
        else:
            if name not in known:
                check_keys(MrlTrain, {name: text}, "the grid")  # raises, with the nearest key
            values = [_value(known[name], value.strip(), word) for value in text.split(",")]
        if len(set(values)) < len(values):
            raise UserError(f"{word!r} names a value twice.")
        axes[name] = values
    if not axes:
        raise UserError("Name at least one axis of the grid, e.g. wasserstein_weight=0.1,1,10.")
    return axes


def _value(field: Field, text: str, where: str) -> Any:
    return coerce(field, text.replace(":", ",") if field.kind.sequence else text, where)


def _method(name: str) -> str:
    if name not in methods():
        raise UserError(f"method: {name!r} is not one of {', '.join(methods())}.")
    return name


def plan_points(base: TrainingOptions, axes: Axes, width: Callable[[TrainingOptions], int]) -> list[Point]:
    """The combinations of the axes.

    Args:
        width: the number of features of a configuration's backbone. It gives the nested dimensions where
            neither the base nor an axis does; and a network of this dimension, trained alone, has no
            embedding layer, as published.
    """
    values = values_of(base)
    shared = {name: values[name] for name in recipe_fields(MrlTrain)}
    points = []
    for chosen in itertools.product(*axes.values()):
        settings = dict(zip(axes, chosen, strict=True))
        method = settings.get("method", "mwrl")
        given = {key: value for key, value in settings.items() if key != "method"}
        options = {**shared, **methods()[method], **given}
        if options["dims"] is None:
            options["dims"] = default_dims(width(build(MrlTrain, options)))
        name = "__".join(f"{key}-{_folder(value)}" for key, value in settings.items())
        if method == "independent":
            features = width(build(MrlTrain, options))
            trainings = {
                f"{name}/dim-{d}": build(
                    MrlTrain,
                    {
                        **options,
                        "dims": (d,),
                        "ce_weights": None,
                        "embedding": "identity" if d == features else "linear",
                    },
                )
                for d in options["dims"]
            }
        else:
            trainings = {name: build(MrlTrain, options)}
        points.append(Point(settings, trainings))
    return points


def _folder(value: Any) -> str:
    return display(value).replace(",", ":").replace("/", "_")
