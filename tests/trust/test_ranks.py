"""N ranks are one: the same losses, the same evaluation, and one rank's misfortune told by all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.trust.commands import TRAININGS, Training
from tests.trust.runs import again, assert_same, copy, explain, losses, reference, steps_saved
from tests.trust.server import Server

pytestmark = [pytest.mark.trust, pytest.mark.distributed]


def test_losses_of_two_ranks_are_those_of_one(server: Server, references: Path, training: Training) -> None:
    """The first loss to 1e-6 of it or of its terms: a float32 mean over a few hundred samples, split in two. Then the
    rounding of each update grows with the training, up to the drift that each declares. Where ranks mix with draws of
    their own, the losses agree in their size only.
    """
    one = losses(reference(server, references, training, 1))
    two = losses(reference(server, references, training, 2))
    assert [step for step, _ in one] == [step for step, _ in two]
    if training.drift is not None:
        assert two[0][1] == pytest.approx(one[0][1], rel=1e-6, abs=1e-6 * training.terms)
        assert [v for _, v in two] == pytest.approx([v for _, v in one], rel=training.drift, abs=1e-4)
    else:
        assert two[0][1] == pytest.approx(one[0][1], rel=0.5)


@pytest.mark.parametrize(
    "words",
    [("mrl", "evaluate"), ("ssl", "evaluate", "--probe-epochs", "2"), ("ssl", "knn"), ("metrix", "evaluate")],
    ids=lambda words: f"{words[0]}-{words[1]}",
)
def test_evaluation_counts_every_sample_once(
    server: Server, references: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Seven ranks divide none of the sizes of the digits' test sets: shares (counts over N) are equal to the bit."""
    training = next(training for training in TRAININGS if training.argv[0] == words[0])
    run = copy(reference(server, references, training), tmp_path / "run")
    found = []
    for nproc in (1, 2, 7):
        command = server.run(
            [*words[:2], run, *words[2:], "--json", "--quiet", "--device", "cpu", "--nproc", str(nproc)], tmp_path
        )
        assert command.code == 0, command.said
        said = command.said
        found.append(json.loads(said[said.index("{") : said.rindex("}") + 1]))
    shares, others = zip(*map(_numbers, found), strict=True)
    assert shares[0]
    assert shares[1] == shares[0]
    assert shares[2] == shares[0]
    for numbers in others[1:]:
        assert numbers == pytest.approx(others[0], rel=1e-4, abs=1e-5)


def _numbers(result: Any) -> tuple[dict[str, float], dict[str, float]]:
    """The shares and the other measures of a result."""
    flat: dict[str, float] = {}

    def collect(value: Any, at: str) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                collect(entry, f"{at}/{key}")
        elif isinstance(value, float) and "seconds" not in at:
            flat[at] = value

    collect(result, "")
    shares = {name: value for name, value in flat.items() if "top" in name or "recall" in name}
    return shares, {name: value for name, value in flat.items() if name not in shares}


@pytest.mark.parametrize("place", [0, 1])
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(
    server: Server, references: Path, tmp_path: Path, training: Training, place: int
) -> None:
    seed = f"{training.name} nan {place}"
    at = random.Random(seed).randrange(1, training.steps)
    run = tmp_path / "run"
    failed = server.run(again(training, run, 2), tmp_path, at=at, nan=True, rank=place)
    said = failed.said
    if training.is_grid:
        said += "".join(path.read_text() for path in run.rglob("logs/*.log"))
    assert failed.code == 1, explain(seed, failed)
    assert f"The loss was nan at step {at}" in said, explain(seed, failed)
    assert "checkpoint" in said
    assert "Traceback" not in said
    assert all(step <= at for step in steps_saved(run).values())
    assert server.run(again(training, run, 2), tmp_path).code == 0
    assert_same(run, reference(server, references, training, 2))


@pytest.mark.parametrize("place", [0, 1])
def test_a_rank_that_is_killed_is_named(
    server: Server, references: Path, tmp_path: Path, training: Training, place: int
) -> None:
    """As by the system when memory runs out: which rank, by which signal, and what was saved."""
    seed = f"{training.name} killed {place}"
    at = random.Random(seed).randrange(1, training.steps)
    run = tmp_path / "run"
    failed = server.run(again(training, run, 2), tmp_path, at=at, die=True, rank=place)
    said = failed.said
    if training.is_grid:
        said += "".join(path.read_text() for path in run.rglob("logs/*.log"))
    assert failed.code == (1 if training.is_grid else 137), explain(seed, failed)
    assert f"ank {place} " in said, explain(seed, failed)
    assert "SIGKILL" in said, explain(seed, failed)
    assert "checkpoint" in said, explain(seed, failed)
    assert server.run(again(training, run, 2), tmp_path).code == 0
    assert_same(run, reference(server, references, training, 2))


@pytest.mark.parametrize("place", [0, 1])
def test_ranks_start_again_when_one_has_died(
    server: Server, references: Path, tmp_path: Path, training: Training, place: int
) -> None:
    """From the last checkpoint, or from the start in the same directory: the run is as if no rank had died."""
    seed = f"{training.name} replaced {place}"
    at = random.Random(seed).randrange(1, training.steps)
    run = tmp_path / "run"
    of_trainings = ["--"] if training.command == "sweep" else []
    argv = [*training.on(run, 2), *of_trainings, "--max-restarts", "1"]
    ended = server.run(argv, tmp_path, at=at, die=True, rank=place)
    said = ended.said + "".join(path.read_text() for path in run.rglob("logs/*.log"))
    assert ended.code == 0, explain(seed, ended)
    assert "SIGKILL" in said, explain(seed, ended)
    assert "All ranks start again" in said, explain(seed, ended)
    assert_same(run, reference(server, references, training, 2))
