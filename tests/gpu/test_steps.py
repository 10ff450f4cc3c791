"""Every training on a logical CUDA device: no operation mixes devices, and a steady step waits as often as the table
says."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.device import Counts, LogicalCuda
from tests.trust.commands import TRAININGS, Training
from wasskit.cli import run
from wasskit.training.loop import Loop

WARM = 1
"""First steps of a training that are not counted: they make what later ones keep."""


def stage(loop: Loop) -> str:
    task: Any = loop.task
    return "first" if hasattr(task, "in_first") and task.in_first(loop.progress) else "own"


@pytest.mark.slow
@pytest.mark.parametrize("training", [t for t in TRAININGS if not t.is_grid], ids=lambda training: str(training.name))
def test_a_steady_step_waits_as_often_as_is_known(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: dict[tuple[int, str], list[Counts]] = {}
    loops: list[Loop] = []
    plain: Callable[..., Any] = Loop._update
    with LogicalCuda() as device:

        def update(self: Loop, batches: Any) -> None:
            if self not in loops:
                loops.append(self)
            of_stage = steps.setdefault((loops.index(self), stage(self)), [])
            device.counts = Counts()
            plain(self, batches)
            of_stage.append(device.counts)
            device.counts = Counts()

        monkeypatch.setattr(Loop, "_update", update)
        code = run(training.briefly(tmp_path / "run", "cuda"))
    said = capfd.readouterr().err
    assert code == 0, said[-3000:]
    assert "not recorded as CUDA graphs" not in said
    for (number, name), counts in steps.items():
        steady = [f"{step.waits.total()} {dict(step.waits)}" for step in counts[WARM:]]
        measured = statistics.median_low(step.waits.total() for step in counts[WARM:])
        # A second training of metrix is the plain one that it is compared with.
        assert measured == (training.waits if number == 0 else 0), f"{name}: {steady}"
        assert counts[-1].operations > 0
