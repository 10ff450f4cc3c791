"""Public names that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Lazy(NamedTuple):
    """What a package defines as its ``__getattr__``, ``__dir__`` and ``__all__``."""

    get: Callable[[str], Any]
    names: Callable[[], list[str]]
    public: list[str]


def attach(package: str, public: Mapping[str, Sequence[str]]) -> Lazy:
    """The names that a package offers without importing them.

    Args:
        public: modules -> the names that each defines.
    """
    modules = {name: module for module, names in public.items() for name in names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return Lazy(get, lambda: sorted({*vars(sys.modules[package]), *modules}), sorted(modules))
