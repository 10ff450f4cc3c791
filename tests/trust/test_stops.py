"""Whatever stops a training, and wherever: it goes on as if never stopped, bit for bit.

``--trials N`` makes N kills and N / 10 stops of every training command, and as many again on two ranks.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.trust.commands import TRAININGS, Training, training_commands
from tests.trust.runs import again, assert_same, explain, leftovers, losses, reference, steps_logged, steps_saved
from tests.trust.server import Command, Server

pytestmark = pytest.mark.trust

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE_SECONDS = 120.0


def start_again(server: Server, words: list[str], folder: Path) -> Command:
    """Start a command; until what a killed one has left running has let go of the run, start it anew."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        command = server.start(words, folder)
        if command.wait(0.05) != 2 or "Another process" not in command.said or time.monotonic() > end:
            return command


def finish_again(server: Server, words: list[str], folder: Path) -> Command:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        command = server.run(words, folder)
        if command.code != 2 or "Another process" not in command.said or time.monotonic() > end:
            return command


def test_every_training_command_is_tried() -> None:
    """The list of the trials follows the declared commands: a new one that trains is missed here."""
    assert {training.command for training in TRAININGS} == training_commands()
    assert len({training.name for training in TRAININGS}) == len(TRAININGS)


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_stopped_at_a_random_step_and_resumed(
    server: Server, references: Path, tmp_path: Path, training: Training, trials: int | None, nproc: int
) -> None:
    whole = reference(server, references, training, nproc)
    for trial in range(max(1, (trials or 0) // 10)):
        seed = f"{training.name} {nproc} {trial}"
        draw = random.Random(seed)
        at, number = draw.randint(1, training.steps), draw.choice(REQUESTS)
        run = tmp_path / f"run-{trial}"
        stopped = server.run(again(training, run, nproc), tmp_path, at=at, stop=int(number))
        assert stopped.code == 128 + number, explain(seed, stopped)
        assert "Traceback" not in stopped.said, explain(seed, stopped)
        assert leftovers(run) == [], explain(seed, stopped)
        resumed = finish_again(server, again(training, run, nproc), tmp_path)
        assert resumed.code == 0, explain(seed, resumed)
        assert_same(run, whole)


@pytest.mark.distributed
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resumed_on_another_number_of_ranks(
    server: Server, references: Path, tmp_path: Path, training: Training, before: int, after: int
) -> None:
    """Up to the stop the run is that of its first number of ranks. Later, random numbers start anew: a training whose
    loss draws none goes on within the drift that it declares; all others keep every step and every row.
    """
    whole = dict(losses(reference(server, references, training, before)))
    seed = f"{training.name} {before} {after}"
    at = random.Random(seed).randrange(1, training.steps)
    run = tmp_path / "run"
    stopped = server.run(again(training, run, before), tmp_path, at=at, stop=int(signal.SIGTERM))
    assert stopped.code == 143, explain(seed, stopped)
    resumed = finish_again(server, again(training, run, after), tmp_path)
    assert resumed.code == 0, explain(seed, resumed)
    ours = dict(losses(run))
    assert list(ours) == list(whole)
    kept = [step for step in ours if step <= at]
    assert [ours[step] for step in kept] == [whole[step] for step in kept]
    if training.drift is not None:
        assert list(ours.values()) == pytest.approx(list(whole.values()), rel=training.drift, abs=1e-4)


def assert_nothing_lost(run: Path, before: dict[str, int], interval: int, note: str) -> dict[str, int]:
    """No checkpoint is damaged or older than it was; none is further behind the records than one interval."""
    saved = steps_saved(run)
    for name, step in before.items():
        assert saved.get(name, 0) >= step, f"{name} went back from step {step}; {note}"
    for name, step in steps_logged(run).items():
        assert step - saved.get(name, 0) <= interval, f"{name}: {step} recorded, {saved.get(name)}; {note}"
    return saved


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_killed_at_random_moments(
    server: Server, references: Path, tmp_path: Path, training: Training, trials: int | None, nproc: int
) -> None:
    """Chains of ``--requeue``: killed again and again, from its start to its last figure, a run ends as it should."""
    whole = reference(server, references, training, nproc)
    # Epochs of 4 to 10 steps, or 4 steps between evaluations: a checkpoint is due at each.
    interval = 10
    began = time.monotonic()
    assert server.run(again(training, tmp_path / "timed", nproc), tmp_path).code == 0
    length = time.monotonic() - began
    draw = random.Random(f"{training.name} {nproc} kills")
    run = tmp_path / "run-0"
    saved: dict[str, int] = {}
    for kill in range(trials or 3):
        note = f"{training.name}, {nproc} ranks, kill {kill}"
        number = draw.choice((*REQUESTS, signal.SIGKILL))
        command = start_again(server, again(training, run, nproc), tmp_path)
        command.wait(draw.uniform(0, length))
        command.send(number)
        code = command.finish()
        assert code in (0, 128 + number), explain(note, command)
        assert "Traceback" not in command.said, explain(note, command)
        if code == 0:
            assert_same(run, whole)
            run = tmp_path / f"run-{kill + 1}"
            saved = {}
        elif run.is_dir():
            saved = assert_nothing_lost(run, saved, interval, note)
    last = finish_again(server, again(training, run, nproc), tmp_path)
    assert last.code == 0, explain(training.name, last)
    assert_same(run, whole)
