"""Random command lines: each is carried out or told in one sentence; none hangs, none costs a file."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trust.command_lines import Generator, Snapshot, make_folder
from wasskit import console
from wasskit.cli import run
from wasskit.errors import UserError

SAMPLE, ALL = 150, 5_000
LONGEST = 20
"""Seconds after which a command line counts as hanging."""


def _begun(*_: Any, **__: Any) -> Any:
    raise UserError("the request was right: this is where the work would begin.")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in; trainings, studies, figures and child processes end where their work would begin."""
    work = tmp_path / "work"
    make_folder(work)
    (tmp_path / "home").mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(work)
    for name, value in (("HOME", "home"), ("WASSKIT_DATA", "data")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("COLUMNS", "200")
    for place in (
        "wasskit.training.session.seed_all",
        "wasskit.sweeps.grid.Grid._train",
        "wasskit.cluster.submit.submit",
        "wasskit.sweeps.cluster.submit",
        "wasskit.plugins.study.session.RunDirectory.create",
        "wasskit.plugins.plot.output.save_figure",
        "wasskit.distributed.launch.launch",
    ):
        monkeypatch.setattr(place, _begun)
    return work


class _Hangs(BaseException):
    pass


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise _Hangs

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _carry_out(argv: list[str]) -> tuple[int | None, str, str]:
    """Exit code (None: it hangs), stdout and stderr of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _alarm(LONGEST):
                code: int | None = run(argv)
        except _Hangs:
            code = None
        except BaseException as error:
            code, _ = -1, err.write(f"Traceback: {type(error).__name__}: {error}")
    asked_for = console.is_verbose() and code in (1, 2)
    console.configure()
    said = err.getvalue()
    if asked_for and "Traceback (most" in said:  # --verbose shows where a foreseen error comes from
        said = said[said.rfind("\nError: ") + 1 :]
    return code, out.getvalue(), said


def _faults(code: int | None, stderr: str, changed: list[str], messages: int = 1) -> Iterator[str]:
    """What is wrong with how a command line ended; ``messages``: how many it may print."""
    if code is None:
        yield f"hangs for more than {LONGEST} s"
    if "Traceback" in stderr or "This is a fault of wasskit" in stderr:
        yield "a traceback: " + stderr[-600:]
    elif code not in (None, 0):
        if code not in (1, 2):
            yield f"exit code {code}"
        said = sum(line.startswith("Error: ") for line in stderr.splitlines())
        if not 1 <= said <= messages:
            yield f"{said} messages: {stderr[-300:]!r}"
    if changed:
        yield f"changed {', '.join(changed)}"


@pytest.mark.trust
@pytest.mark.skipif(os.name != "posix", reason="needs alarms and pipes")
def test_random_command_lines(scratch: Path, complete: bool) -> None:
    trials = ALL if complete else SAMPLE
    generator = Generator(20240901, scratch)
    snapshot = Snapshot.of(scratch)
    found: list[str] = []
    codes: dict[int, int] = {}
    begun = 0
    environment = dict(os.environ)
    for number in range(trials):
        argv = generator.line(number)
        code, _, stderr = _carry_out(argv)
        begun += "this is where the work would begin" in stderr
        changed = snapshot.restore()
        if changed and {"--overwrite", "--force"} & set(argv):
            shutil.rmtree(scratch)
            make_folder(scratch)
            snapshot, changed = Snapshot.of(scratch), []
        # `recipes validate` tells what is wrong with each of its recipes.
        several = len(argv) if argv[:2] == ["recipes", "validate"] else 1
        faults = _faults(code, stderr, changed, several)
        found += [f"{number}: wasskit {shlex.join(argv)[:400]}\n    {fault}" for fault in faults]
        if changed:
            break  # the folder is no longer what the next line expects
        codes[code or 0] = codes.get(code or 0, 0) + 1
        os.chdir(scratch)
        os.environ.clear()
        os.environ.update(environment)
    print(f"{trials} command lines, exit codes {codes}, {begun} began to work, {len(found)} faults")
    assert not found, "\n".join(found[:40])
    # The draw reaches what a command does, not only the parser.
    assert codes[0] > 0
    assert begun > 0


def test_the_judge_sees_faults() -> None:
    """A check that cannot fail is none."""
    assert list(_faults(2, "Error: one.\n", [])) == []
    assert list(_faults(0, "", [])) == []
    for code, stderr, changed in (
        (None, "", []), (1, "Traceback (most recent call last)", []), (2, "", []), (2, "Error: a\nError: b\n", []),
        (3, "Error: a\n", []), (0, "", ["x"]),
    ):  # fmt: skip
        assert list(_faults(code, stderr, changed))


def test_a_changed_file_is_seen_and_a_new_one_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    snapshot = Snapshot.of(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b").write_text("2")
    assert snapshot.restore() == []
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").write_text("2")
    (tmp_path / "b").replace(tmp_path / "a")
    assert snapshot.restore() == [str(tmp_path / "a")]
