"""Networks built from a description that came with their weights: both are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wasskit.errors import UserError
from wasskit.models.weights import check_state

T = TypeVar("T")
LARGEST_SIDE = 1 << 14
"""Pixels of the largest side of an image that a description may ask for."""


def rebuild(build: Callable[[], T], module_of: Callable[[T], nn.Module], state: Mapping[str, Tensor], path: Path) -> T:
    """What ``build`` makes from a description, with the weights ``state`` loaded into ``module_of`` it.

    It is first built without memory (on the device meta) and compared with the weights: a description of a thousand
    million coordinates costs nothing.

    Raises:
        UserError: nothing can be built by the description in ``path``, or the weights are not of it.
    """
    try:
        with torch.device("meta"):
            draft = module_of(build())
    except Exception as error:  # a description may hold anything, and so may what it leads to
        raise UserError(
            f"{path} describes no model that can be built: it is damaged, or of another version; make it again."
        ) from error
    check_state(draft, state, path, "the model that it describes")
    built = build()
    module_of(built).load_state_dict(dict(state))
    return built


def check_description(description: Any, path: Path, **also: Callable[[Any], bool]) -> dict[str, Any]:
    """The description of a model of images, checked for what every command reads in it; see :func:`check_entries`.

    Args:
        also: further keys and what must hold for their values.
    """
    channels = description.get("channels") if isinstance(description, Mapping) else None
    rules: dict[str, Callable[[Any], bool]] = {
        "backbone": is_text,
        "stem": is_text,
        "dataset": is_text,
        "classes": lambda value: isinstance(value, list | tuple) and all(map(is_text, value)),
        "image_size": lambda value: is_count(value) and value <= LARGEST_SIDE,
        "channels": lambda value: is_count(value) and value in (1, 3),
        "mean": lambda value: are_numbers(value, channels),
        "std": lambda value: are_numbers(value, channels) and min(value) > 0,
        "in_memory": is_flag,
        **also,
    }
    return check_entries(description, path, rules)


def check_entries(description: Any, path: Path, rules: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """A description whose entries keep the rules.

    Raises:
        UserError: a key is missing or has a wrong value; the first is named.
    """
    if not isinstance(description, Mapping):
        raise UserError(f"{path} does not describe its model: name another file.")
    for key, holds in rules.items():
        if key not in description:
            raise UserError(f"{path} does not describe its model: {key!r} is missing; name another file.")
        if not holds(description[key]):
            raise UserError(f"{path} does not describe its model: {key!r} has a wrong value; name another file.")
    return dict(description)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 1 to 2^31 - 1."""
    return type(value) is int and 0 < value < 1 << 31


def are_counts(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(is_count, value))


def are_numbers(value: Any, length: Any) -> bool:
    """Whether they are ``length`` finite numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == length
        and all(type(entry) in (int, float) and math.isfinite(entry) for entry in value)
    )
