"""The combinations of a grid: each a configuration, or several, of the command that trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wasskit.config import RecipeOptions, build, display, recipe_fields, values_of
from wasskit.errors import UserError
from wasskit.plugins.mrl.adapt.options import adapted_dims
from wasskit.plugins.mrl.commands.adapt import MrlAdapt
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.options import default_dims, methods
from wasskit.sweeps import axes as sweeps
from wasskit.sweeps.axes import Axes

__all__ = ["ADAPTORS", "NETWORKS", "Axes", "Point", "Subject", "parse_axes", "plan_points"]


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
class Point(sweeps.Point[Any]):
    """One combination: its settings, and the trainings it consists of (one per dimension, if independent)."""

    dims: tuple[int, ...] = ()
    """The nested dimensions that are trained."""


def parse_axes(words: Iterable[str], subject: Subject = NETWORKS) -> dict[str, list[Any]]:
    """The axes of a grid; ``method`` is one of them. See `wasskit.sweeps.axes.parse_axes`."""
    return sweeps.parse_axes(words, subject.options, {"method": list(methods())})


def plan_points(
    base: RecipeOptions, axes: Axes, width: Callable[[Any], int], subject: Subject = NETWORKS
) -> list[Point]:
    """The combinations of the axes.

    Args:
        width: the number of features of a configuration's backbone, or of its vectors. It gives the nested dimensions
            where neither the base nor an axis does; and a network of this dimension, trained alone, has no embedding
            layer, as published.

    Raises:
        UserError: an axis gives a method what makes it another one.
    """
    values = values_of(base)
    shared = {name: values[name] for name in recipe_fields(subject.options)}
    points = []
    for settings in sweeps.combinations(axes):
        method = settings.get("method", "mwrl")
        given = {key: value for key, value in settings.items() if key != "method"}
        fixed = subject.methods[method]
        other = [key for key, value in given.items() if fixed.get(key, value) != value]
        if other:
            raise UserError(
                f"method: {method} has {other[0]} {display(fixed[other[0]])}, not {display(given[other[0]])}: make a "
                f"grid of its own for the axis {other[0]}."
            )
        options = {**shared, **fixed, **given}
        if method in ("mwrl", "wasserstein") and "method" in settings and not options["wasserstein_weight"]:
            raise UserError(f"method: {method} has a Wasserstein term: give its weight by --wasserstein-weight.")
        if options["dims"] is None:
            options["dims"] = subject.default_dims(width(build(subject.options, options)))
        name = sweeps.folder_name(settings)
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
