"""The combinations of a grid: each a configuration, or several, of ``wasskit mrl train``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from wasskit.config import build, recipe_fields, values_of
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.options import TrainingOptions, default_dims, methods
from wasskit.sweeps import axes as sweeps
from wasskit.sweeps.axes import Axes, Point, folder_name

__all__ = ["Axes", "Point", "parse_axes", "plan_points"]


def parse_axes(words: Iterable[str]) -> dict[str, list[Any]]:
    """The axes of a grid of ``mrl train``; ``method`` is one of them. See `wasskit.sweeps.axes.parse_axes`."""
    return sweeps.parse_axes(words, MrlTrain, {"method": list(methods())})


def plan_points(base: TrainingOptions, axes: Axes, width: Callable[[TrainingOptions], int]) -> list[Point[MrlTrain]]:
    """The combinations of the axes.

    Args:
        width: the number of features of a configuration's backbone. It gives the nested dimensions where
            neither the base nor an axis does; and a network of this dimension, trained alone, has no
            embedding layer, as published.
    """
    values = values_of(base)
    shared = {name: values[name] for name in recipe_fields(MrlTrain)}
    return [_point(settings, shared, width) for settings in sweeps.combinations(axes)]


def _point(
    settings: dict[str, Any], shared: dict[str, Any], width: Callable[[TrainingOptions], int]
) -> Point[MrlTrain]:
    method, name = settings.get("method", "mwrl"), folder_name(settings)
    options = {**shared, **methods()[method], **{key: value for key, value in settings.items() if key != "method"}}
    if options["dims"] is None:
        options["dims"] = default_dims(width(build(MrlTrain, options)))
    if method != "independent":
        return Point(settings, {name: build(MrlTrain, options)})
    features = width(build(MrlTrain, options))
    trainings = {}
    for d in options["dims"]:
        embedding = "identity" if d == features else "linear"
        alone = {**options, "dims": (d,), "ce_weights": None, "embedding": embedding}
        trainings[f"{name}/dim-{d}"] = build(MrlTrain, alone)
    return Point(settings, trainings)
