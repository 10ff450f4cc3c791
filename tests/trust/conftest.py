"""How many trials the tests of trust make: a small sample by default, more by ``--trials N``.

Below `COMPLETE` each test takes N of the training commands, by turns of the test's name; from there on all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.trust.runs")

COMPLETE = 10


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int | None:
    """What ``--trials`` asks for; None where it was not given."""
    number: int | None = request.config.getoption("--trials", default=None)
    return number


@pytest.fixture
def complete(trials: int | None) -> bool:
    """Whether everything is tried, at full size."""
    return trials is not None and trials >= COMPLETE


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that nothing has interrupted."""
    return tmp_path_factory.mktemp("uninterrupted")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test with a parameter ``training`` runs over all training commands, or over a sample of them."""
    if "training" in metafunc.fixturenames:
        from tests.trust.commands import TRAININGS, sample

        number: int = metafunc.config.getoption("--trials", default=None) or 1
        chosen = TRAININGS if number >= COMPLETE else sample(metafunc.function.__name__, number)
        metafunc.parametrize("training", chosen, ids=[training.name for training in chosen])
