"""Broken and hostile files: every reader gives a result or one sentence, in bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.corpus import cases, covered
from wasskit.errors import UserError
from wasskit.system.readers import READERS

pytestmark = pytest.mark.trust

ROOT = Path(__file__).parents[2]
SAMPLE, ALL = 300, 20_000


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


def test_mutated_files(complete: bool, tmp_path: Path) -> None:
    trials = ALL if complete else SAMPLE
    wrong: list[str] = []
    first = 0
    while first < trials:
        first, found = _run(first, trials, tmp_path)
        wrong += found
    assert not wrong, f"{len(wrong)} of {trials} mutated files:\n" + "\n".join(wrong)


def _run(first: int, last: int, folder: Path) -> tuple[int, list[str]]:
    """Trials in a process of their own, until done or one has ended it: where to go on, and what went wrong."""
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.trust.files_child", "0", str(first), str(last), str(folder)]
    said = folder / f"stderr{first}"
    label, wrong, done = "", [], False
    with (
        said.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:  # it ends by itself: each trial is timed in the child
            word, _, rest = line.strip().partition(" ")
            if word == "TRIAL":
                label = rest
            elif word == "WRONG":
                wrong.append(rest.replace("\\n", "\n"))
            elif word == "NOTE":
                print(rest)
            done = done or word == "DONE"
    if done:
        return last, wrong
    last_words = said.read_text()[-3000:]
    assert label, f"no file was tried:\n{last_words}"
    wrong.append(f"{label}: hangs or ended its process, with {child.returncode}:\n{last_words}")
    return int(label.split()[0]) + 1, wrong
