"""Options of the trials."""

from __future__ import annotations

import contextlib

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # another folder of trials has added it
        parser.addoption("--trials", type=int, default=None, help="Number of random trials of each kind.")
