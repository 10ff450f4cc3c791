"""The names that the package offers to other people's code."""

from __future__ import annotations

import importlib

import pytest

import wasskit

PACKAGES = ("wasskit", "wasskit.ot", "wasskit.evaluation")
NAMES = [(p, n) for p in PACKAGES for n in importlib.import_module(p).__all__ if n != "__version__"]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_public_name_is_there_and_documented(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    assert callable(value)
    assert value.__doc__
    assert name in dir(importlib.import_module(package))


def test_the_packages_agree() -> None:
    assert wasskit.w2_uniformity is importlib.import_module("wasskit.evaluation").w2_uniformity


def test_unknown_names_fail_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'w3'"):
        _ = wasskit.w3
