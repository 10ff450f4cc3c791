"""The names that the package offers to other people's code."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


FROM_A_RUN = {"load", "HubModel"}
"""Names whose examples start from a run of ``wasskit mrl train``."""


def _try_examples(name: str) -> None:
    import torch

    value = getattr(wasskit, name)
    found = [test for test in doctest.DocTestFinder(recurse=False).find(value, name) if test.examples]
    assert found, f"the docstring of wasskit.{name} has no example"
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        said: list[str] = []
        for test in found:
            test.globs = {}  # an example imports what it uses
            runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", [name for name in wasskit.__all__ if name not in {"__version__", *FROM_A_RUN}])
def test_the_example_of_every_public_name_gives_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _try_examples(name)


@pytest.mark.slow
def test_the_examples_that_start_from_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    assert run_cli("mrl", "train", "--epochs", "1", "--no-tensorboard").exit_code == 0
    for name in sorted(FROM_A_RUN):
        _try_examples(name)


def test_the_packages_agree() -> None:
    assert wasskit.w2_uniformity is importlib.import_module("wasskit.evaluation").w2_uniformity


def test_unknown_names_fail_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'w3'"):
        _ = wasskit.w3
