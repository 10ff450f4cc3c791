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

__all__ = ["SHARED", "build_loss", "find_loss", "loss_names", "parse_settings"]

declared: dict[str, type[PairLoss]] = {}
"""What :class:`~wasskit.plugins.metrix.pair_loss.PairLoss` has been told of."""


SHARED = ("num_classes", "embedding_dim", "distance", "margin", "similarity_scales", "proxy_scales")
"""What a loss may take besides settings of its own."""


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
    """The loss of a name. It takes what it declares of ``given``, which are some of `SHARED`; ``settings`` are its own.

    Raises ``ValueError`` for a setting that it does not declare, and for values that it refuses.
    """
    loss = find_loss(name)
    wanted = inspect.signature(loss).parameters
    own = [setting for setting in wanted if setting not in SHARED]
    for setting in settings:
        if setting not in own:
            raise ValueError(f"the loss {name} has no setting {setting!r}: it has {', '.join(own) or 'none'}")
    return loss(**{key: value for key, value in given.items() if key in wanted}, **settings)


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
