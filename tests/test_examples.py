"""The examples of the documents: each is run from its first line to its last, and what it prints is checked."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
pytestmark = pytest.mark.slow
Numbers = Callable[[str, str], list[Any]]


@pytest.fixture
def numbers(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str, str], list[Any]]]:
    """The groups of every line that an example prints and a pattern finds, as numbers."""

    def found(example: str, pattern: str) -> list[Any]:
        runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
        said = capsys.readouterr().out
        matches = [tuple(map(float, match.groups())) for match in re.finditer(pattern, said)]
        assert matches, said
        return matches

    with torch.random.fork_rng():
        yield found


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        name.removeprefix("test_")
        for name in globals()
        if name.startswith("test_") and name != "test_every_example_has_a_test"
    }


def test_matryoshka(numbers: Numbers) -> None:
    accuracy = {row[0]: row[1] for row in numbers("matryoshka", r"(\d+) numbers: ([\d.]+) %")}
    assert list(accuracy) == [2, 4, 8, 16, 32, 64]
    # Chance is 10 %, give or take 1.5 over 397 images; two numbers cannot hold ten classes apart as more can.
    assert 20 < accuracy[2] < accuracy[8]
    assert accuracy[8] > 90
    assert accuracy[64] > 95


def test_metric_learning(numbers: Numbers) -> None:
    rows = numbers("metric_learning", r"recall@1 ([\d.]+) %, recall@2 ([\d.]+) %, MAP@R ([\d.]+) %")
    assert len(rows) == 2
    for first, second, precision in rows:
        # Five unseen classes of equal size: chance is 20 %.
        assert 85 < first <= second <= 100
        assert 30 < precision < first


def test_self_supervised(numbers: Numbers) -> None:
    pattern = r"weight +([\d.]+): 10-NN ([\d.]+) %, W2 to uniformity ([\d.]+), RankMe ([\d.]+) of 64"
    (plain, accuracy, distance, rank), (weighted, with_accuracy, with_distance, with_rank) = numbers(
        "self_supervised", pattern
    )
    assert plain == 0 < weighted
    assert min(accuracy, with_accuracy) > 85
    assert with_distance < distance < 2**0.5
    assert rank < with_rank <= 64


def test_smaller_embeddings(numbers: Numbers) -> None:
    rows = numbers("smaller_embeddings", r"(\d+) +([\d.]+) % +([\d.]+) %")
    assert [row[0] for row in rows] == [2, 4, 8, 16, 32, 64]
    components, adapted = ({row[0]: row[place] for row in rows} for place in (1, 2))
    # The adaptor starts at the principal components. 3 of 397 images are one standard deviation at 98 %.
    assert all(adapted[dim] > components[dim] - 3 for dim in components)
    assert 20 < adapted[2] < adapted[8]
    assert adapted[64] > 97


def test_transport_map(numbers: Numbers) -> None:
    ((before, after, floor),) = numbers("transport_map", r"([\d.]+) before, ([\d.]+) after, (-?[\d.]+) between")
    assert after < before / 20
    assert abs(floor) < before / 20  # unbiased, so it may be negative
