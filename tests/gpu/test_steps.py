"""Every training on a logical CUDA device: no operation mixes devices, and a steady step asks for what the table of
the documents says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.steady import counted, table
from tests.trust.commands import TRAININGS, Training

pytestmark = pytest.mark.usefixtures("undrawn")

ALONE = [training for training in TRAININGS if not training.is_grid]
SLACK = 1.25
"""Versions of torch take some operations in fewer or more parts."""


@pytest.mark.slow
@pytest.mark.parametrize("training", ALONE, ids=lambda training: str(training.name))
def test_a_steady_step_asks_for_no_more_than_the_table_says(training: Training, tmp_path: Path) -> None:
    found, said = counted(training, tmp_path / "run")
    assert "not recorded as CUDA graphs" not in said
    known = table()
    for name, step in found.items():
        assert (step.waits, step.copies) == (known[name].waits, known[name].copies), name
        assert step.waits <= training.waits, name
        assert 0 < step.operations <= SLACK * known[name].operations, name
        assert 0 < step.launches <= SLACK * known[name].launches, name


def test_the_table_has_every_training() -> None:
    """With a wait for those alone of which it is known."""
    found = table()
    assert {name.partition(",")[0] for name in found} == {training.name for training in ALONE}
    waiting = {training.name for training in ALONE if training.waits}
    assert {name for name, step in found.items() if step.waits} == waiting
