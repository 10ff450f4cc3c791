"""How many trials the tests of trust make: a sample by default, more by ``--trials N``."""

from __future__ import annotations

import contextlib

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # declared already
        parser.addoption("--trials", type=int, default=None, help="Trials of each test of trust.")


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int | None:
    """What ``--trials`` asks for; None where it was not given."""
    number: int | None = request.config.getoption("--trials", default=None)
    return number
