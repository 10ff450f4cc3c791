"""Fixtures shared by all tests, and on how many processes they run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.trust.server import Server

# Before torch is imported: threads that wait sleep at once, and a machine that is busy with tests stays bearable.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite started by nohup inherits that SIGHUP is ignored, one in the background of a script SIGINT, which the package
# respects; the tests send them to be heard.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=int, default=None, help="Trials of each test of trust: see tests/trust.")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The whole suite runs on all cores, up to eight; files that are named in this process, where ``-s`` works."""
    from wasskit.system.processes import cores

    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return 0
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else min(8, cores())


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """No test leaves another number of threads behind, by which the sums of those after it would round differently."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    assert not torch or torch.get_num_threads() == before


REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Any]]:
    """Load one file of reference numbers by its name without extension, as a dict of arrays."""

    def load(name: str) -> dict[str, Any]:
        with np.load(REFERENCE / f"{name}.npz") as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets named by ``WASSKIT_DATA``; tests that need it skip without it."""
    root = os.environ.get("WASSKIT_DATA")
    if not root:
        pytest.skip("WASSKIT_DATA is not set")
    return Path(root)


@pytest.fixture(autouse=True)
def _told_as_by_default() -> Iterator[None]:
    """What a command said of ``--quiet`` and ``--json`` does not hold for the next test."""
    yield
    from wasskit import console

    console.configure()


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a wasskit command line in this process; return its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*argv: str | os.PathLike[str]) -> Result:
        from wasskit.cli import run as run_command

        capfd.readouterr()
        code = run_command([os.fspath(word) for word in argv])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built and saved as empty files: for tests that look at no picture, of which drawing would be a third
    of the time. Not for processes that a test starts."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: None)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts commands as forks of one process that has imported everything."""
    from tests.trust.server import Server

    with Server() as started:
        yield started


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="session")
def words() -> Callable[[str], str]:
    """Collapse white space, so that messages can be compared whatever the width they were wrapped to."""
    return _words
