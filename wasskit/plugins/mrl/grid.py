"""The combinations of a grid: each a configuration, or several, of the command that trains them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wasskit.config import (
    Field,
    RecipeOptions,
    build,
    check_keys,
    coerce,
    display,
    recipe_fields,
    values_of,
)
from wasskit.errors import UserError
from wasskit.plugins.mrl.adapt.options import adapted_dims
from wasskit.plugins.mrl.commands.adapt import MrlAdapt
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.options import default_dims, methods

Axes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Subject:
    """What a grid trains.

    Args:
        command, options: the command of one training, and its options.
        default_dims: nested dimensions of a width, where none are given.
        methods: those of the published comparison, by the settings they are made of.
        alone: further settings of a network of so many of ``width`` coordinates that is trained alone.
        resolved: a configuration as the command saves it.
    """

    command: str
    options: type[RecipeOptions]
    default_dims: Callable[[int], tuple[int, ...]]
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=methods)
    alone: Callable[[int, int], Mapping[str, Any]] = lambda dim, width: {}
    resolved: Callable[[Any], RecipeOptions] = lambda config: config

    def configured(self, options: Mapping[str, Any]) -> RecipeOptions:
        """The configuration of one training."""
        return self.resolved(build(self.options, options))


NETWORKS = Subject(
    "mrl train",
    MrlTrain,
    default_dims,
    alone=lambda dim, width: {"embedding": "identity" if dim == width else "linear"},
)
ADAPTORS = Subject(
    "mrl adapt",
    MrlAdapt,
    adapted_dims,
    {**methods(), "wasserstein": {"alpha": 0.0, "cosine_weight": 0.0, "keep_weight": 0.0}},
    resolved=lambda config: config.resolved(),
)


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and the trainings it consists of (one per dimension, if independent)."""

    settings: Mapping[str, Any]
    trainings: Mapping[str, Any]
    """Path below the folder of the grid -> configuration."""
    dims: tuple[int, ...] = ()
    """The nested dimensions that are trained."""


def parse_axes(words: Iterable[str], subject: Subject = NETWORKS) -> dict[str, list[Any]]:
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
    known = recipe_fields(subject.options)
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
                check_keys(subject.options, {name: text}, "the grid")  # raises, with the nearest key
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


def plan_points(
    base: RecipeOptions, axes: Axes, width: Callable[[Any], int], subject: Subject = NETWORKS
) -> list[Point]:
    """The combinations of the axes.

    Args:
        width: the number of features of a configuration's backbone, or of its vectors. It gives the nested dimensions
            where neither the base nor an axis does; and a network of this dimension, trained alone, has no embedding
            layer, as published.
    """
    values = values_of(base)
    shared = {name: values[name] for name in recipe_fields(subject.options)}
    points = []
    for chosen in itertools.product(*axes.values()):
        settings = dict(zip(axes, chosen, strict=True))
        method = settings.get("method", "mwrl")
        given = {key: value for key, value in settings.items() if key != "method"}
        options = {**shared, **subject.methods[method], **given}
        if method in ("mwrl", "wasserstein") and "method" in settings and not options["wasserstein_weight"]:
            raise UserError(f"method: {method} has a Wasserstein term: give its weight by --wasserstein-weight.")
        if options["dims"] is None:
            options["dims"] = subject.default_dims(width(build(subject.options, options)))
        name = "__".join(f"{key}-{_folder(value)}" for key, value in settings.items())
        if method == "independent":
            features = width(build(subject.options, options))
            trainings = {
                f"{name}/dim-{d}": subject.configured(
                    {**options, "dims": (d,), "ce_weights": None, **subject.alone(d, features)}
                )
                for d in options["dims"]
            }
        else:
            trainings = {name: subject.configured(options)}
        points.append(Point(settings, trainings, tuple(options["dims"])))
    return points


def _folder(value: Any) -> str:
    return display(value).replace(",", ":").replace("/", "_")
