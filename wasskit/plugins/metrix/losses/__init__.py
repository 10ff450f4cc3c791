"""The metric losses, one a file: ``losses/NAME.py`` declares ``class X(PairLoss, name="NAME")``. Free of torch.

A loss is found by the name of its file, or, declared elsewhere, by the name that its class gives.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

if typing.TYPE_CHECKING:
    from wasskit.plugins.metrix.pair_loss import PairLoss

__all__ = ["build_loss", "find_loss", "loss_names", "parse_settings"]

declared: dict[str, type[PairLoss]] = {}
"""What :class:`~wasskit.plugins.metrix.pair_loss.PairLoss` has been told of."""


def loss_names() -> tuple[str, ...]:
    """The names of all losses."""
    return tuple(sorted({*declared, *(module.name for module in pkgutil.iter_modules(__path__))}))


def find_loss(name: str) -> type[PairLoss]:
    """The class of a loss. Raises ``ValueError`` where there is none of that name."""
    if name not in loss_names():
        raise ValueError(f"unknown loss {name!r}: {', '.join(loss_names())}")
    if name not in declared:
        importlib.import_module(f"{__name__}.{name}")
    return declared[name]


def build_loss(name: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> PairLoss:
    """The loss of a name. It takes what it declares of ``given``; all ``settings`` must be its own.

    Raises ``ValueError`` for a setting that it does not declare, and for values that it refuses.
    """
    loss = find_loss(name)
    wanted = inspect.signature(loss).parameters
    for setting in settings:
        if setting not in wanted:
            raise ValueError(f"the loss {name} has no setting {setting!r}: it takes {', '.join(wanted)}")
    values = {**given, **settings}
    return loss(**{setting: values[setting] for setting in wanted if setting in values})


def parse_settings(words: typing.Sequence[str]) -> dict[str, float]:
    """Settings from ``name=number``, whole numbers as such. Raises ``ValueError`` for anything else."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            found[name.strip()] = int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"a setting is written name=number, not {word!r}")
    return found
