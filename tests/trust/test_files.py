"""Broken and hostile files: every reader gives a result or one sentence, in bounded time and memory."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from tests.trust.corpus import cases, covered
from wasskit.errors import UserError
from wasskit.system.readers import READERS

pytestmark = pytest.mark.trust

ROOT = Path(__file__).parents[2]
SAMPLE = 300
HANG = 20.0
"""Seconds after which a file counts as one that is never read to its end."""


def test_every_declared_reader_is_tried(tmp_path: Path) -> None:
    assert covered(cases(tmp_path)) >= {name for name in READERS if name.startswith("wasskit.")}


def test_sound_files_are_read(tmp_path: Path) -> None:
    """Otherwise the trials would only show how files are refused."""
    for number, case in enumerate(cases(tmp_path)):
        for place, content in enumerate(case.seeds):
            folder = tmp_path / f"{number}-{place}"
            folder.mkdir()
            (folder / case.name).write_bytes(content)
            try:
                case.read(folder / case.name)
            except UserError as error:
                # A batch is none of the file of names, a grey or paletted picture no palette: each refuses the other.
                assert place, (case.label, str(error))  # noqa: PT017
                assert "not a readable" not in str(error), (case.label, place, str(error))  # noqa: PT017


def test_mutated_files(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trials = request.config.getoption("--trials", default=None) or SAMPLE
    wrong: list[str] = []
    first = 0
    while first < trials:
        first, found = _run(first, trials, tmp_path)
        wrong += found
    assert not wrong, f"{len(wrong)} of {trials} mutated files:\n" + "\n".join(wrong)


def _pass_on(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _run(first: int, last: int, folder: Path) -> tuple[int, list[str]]:
    """Trials in a process of their own, until they are done or one has ended or stopped it: where to go on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.trust.files_child", "0", str(first), str(last), str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        lines: queue.Queue[str | None] = queue.Queue()
        errors: list[str] = []
        readers = [
            threading.Thread(target=_pass_on, args=(child.stdout, lines)),
            threading.Thread(target=lambda: errors.extend(child.stderr or ())),
        ]
        for thread in readers:
            thread.start()
        number, label, wrong = first - 1, "", []
        done, patience = False, 120.0  # to import everything
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                child.kill()
                wrong.append(f"HANG {number} {label}")
                break
            if line is None:
                break
            word, _, rest = line.strip().partition(" ")
            if word == "TRIAL":
                number, label = int(rest.split(" ")[0]), rest
                patience = HANG
            elif word == "WRONG":
                wrong.append(rest.replace("\\n", "\n"))
            done = done or word == "DONE"
        child.wait()
        for thread in readers:
            thread.join()
    if done:
        return last, wrong
    if child.returncode != 0 and not any(entry.startswith("HANG") for entry in wrong):
        wrong.append(f"ENDED with {child.returncode}: {label}\n{''.join(errors[-30:])}")
    if number < first:
        return last, wrong
    return number + 1, wrong
