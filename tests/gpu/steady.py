"""What a steady step of every training asks of a GPU, counted on the logical device; the table of it in the documents.

python -m tests.gpu.steady    # counts anew and writes the table
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.gpu.device import Counts, LogicalCuda
from tests.trust.commands import TRAININGS, Training
from wasskit.cli import run
from wasskit.training.graphs import WARM_STEPS
from wasskit.training.loop import Loop

__all__ = ["PAGE", "Steady", "counted", "table"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "checking-a-gpu.md"
HEAD = ["| training | waits in 0.1 | waits | copies | operations | launches |", "| --- | --- | --- | --- | --- | --- |"]
UNSEEN = 1
"""First steps of a training that are not counted: they make what later ones keep."""


class Steady(NamedTuple):
    """What a step asks for at most: waits of the host, copies, operations, and how many of these the host launches."""

    waits: int
    copies: int
    operations: int
    launches: int


def counted(training: Training, folder: Path) -> tuple[dict[str, Steady], str]:
    """Run a training on the logical device; its steps by stage, and what it said."""
    steps: dict[tuple[int, str], list[Counts]] = {}
    said, stack = io.StringIO(), contextlib.ExitStack()
    with LogicalCuda() as device, _counting(device, steps), stack:
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(contextlib.redirect_stdout(said))
        code = run(training.briefly(folder, "cuda"))
    assert code == 0, said.getvalue()[-3000:]
    found: dict[str, Steady] = {}
    for (_, stage), counts in steps.items():
        name = f"{training.name}, {stage}" if stage else str(training.name)
        found[name] = _most(found.get(name), _steady(counts))
    return found, said.getvalue()


@contextlib.contextmanager
def _counting(device: LogicalCuda, steps: dict[tuple[int, str], list[Counts]]) -> Iterator[None]:
    """Inside, the counts of each step by the number of its training and its stage."""
    loops: list[Loop] = []
    plain: Callable[..., Any] = Loop._update

    def update(loop: Loop, batches: Any) -> None:
        if loop not in loops:
            loops.append(loop)
        own = steps.setdefault((loops.index(loop), _stage(loop)), [])
        device.counts = Counts()
        plain(loop, batches)
        own.append(device.counts)
        device.counts = Counts()

    with mock.patch.object(Loop, "_update", update):
        yield


def _stage(loop: Loop) -> str:
    task: Any = loop.task
    if hasattr(task, "in_first") and task.in_first(loop.progress):
        return "first stage"
    if hasattr(task, "in_pretraining") and task.in_pretraining(loop.progress):
        return "pre-training"
    return ""


def _steady(counts: list[Counts]) -> Steady:
    """Of a training's steps, the one that records a graph left out."""
    warm, replayed = counts[UNSEEN:WARM_STEPS] or counts, counts[WARM_STEPS + 1 :]
    both = [*warm, *replayed]
    return Steady(
        max(step.waits.total() for step in both), max(step.copies.total() for step in both),
        max(step.operations for step in warm), max(step.operations for step in replayed or warm),
    )  # fmt: skip


def _most(one: Steady | None, other: Steady) -> Steady:
    return other if one is None else Steady(*map(max, one, other))


def before(name: str) -> str:
    """Waits of a step in version 0.1, where it had the training."""
    kinds = {
        "mrl-geomloss": "21", "mrl-tied": "5", "mrl-adapt": "", "mrl": "3", "ssl": "0", "metrix": "3 to 8",
        "w2gn-fit": "", "w2gn-latent": "2 to 7", "w2gn-domain": "2 to 7", "w2gn-style": "2 to 7", "w2gn": "crashed",
    }  # fmt: skip
    return next(waits for start, waits in kinds.items() if name.startswith(start))


def table() -> dict[str, Steady]:
    """The table of the page."""
    rows = [line.strip("| ").split(" | ") for line in _parts()[1] if line.startswith("| `")]
    return {row[0].strip("`"): Steady(*map(int, row[2:])) for row in rows}


def _parts() -> tuple[list[str], list[str], list[str]]:
    """The lines of the page before, in and after the table."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEAD[0])
    end = next((place for place in range(start, len(lines)) if not lines[place].startswith("|")), len(lines))
    return lines[:start], lines[start:end], lines[end:]


def main() -> None:
    found: dict[str, Steady] = {}
    for training in (training for training in TRAININGS if not training.is_grid):
        with tempfile.TemporaryDirectory() as folder:
            rows, _ = counted(training, Path(folder) / "run")
        for name, row in rows.items():
            print(name, *row, flush=True)
        found |= rows
    lines, _, rest = _parts()
    rows_of_page = [f"| `{name}` | {before(name)} | {' | '.join(map(str, row))} |" for name, row in found.items()]
    PAGE.write_text("\n".join([*lines, *HEAD, *rows_of_page, *rest]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
