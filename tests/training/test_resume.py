"""Stopped and resumed equals never stopped: the same weights and the same ``metrics.csv``, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.harness import run_ranks
from tests.training.toy import ToyTask, make_run, make_trainer, signal_self
from wasskit.errors import Interrupted, RunFailed, UserError
from wasskit.training import checkpointing
from wasskit.training.checkpoint import load_checkpoint
from wasskit.training.run import RunDirectory
from wasskit.training.task import Optimisation, Plan

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two nested contents differ, to the bit."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [found for key in a for found in differences(a[key], b[key], f"{at}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{at}/{i}")]
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype
        return [] if same and torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) else [at]
    return [] if a == b else [at]


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (one, other))
    for content in (ours, theirs):
        content["state"].pop("clock")
    assert differences(ours, theirs) == []
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "uninterrupted")
    make_trainer(run).fit()
    return run.path


@pytest.mark.parametrize("stops", [[0], [1, 2], [3], [4], [7], [10, 11], [14], [15]])
def test_resumed_at_any_step(tmp_path: Path, uninterrupted: Path, stops: list[int]) -> None:
    """Four steps an epoch, log points every five: the stops fall before, on and after all boundaries."""
    run = make_run(tmp_path / "r")
    for place, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            make_trainer(run, ToyTask(signal_self(signal.SIGTERM, stop))).fit(resume=place > 0)
        torch.manual_seed(99)
    summary = make_trainer(run).fit(resume=True)
    assert_same_run(run.path, uninterrupted)
    assert summary.best is not None
    assert run.summary is not None
    assert run.summary["final"] == RunDirectory.open(uninterrupted).summary["final"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_resumed_from_any_checkpoint(tmp_path: Path, uninterrupted: Path, name: str) -> None:
    run = make_run(tmp_path / "r")
    make_trainer(run).fit()
    make_trainer(run).fit(resume=run.checkpoints / f"{name}.pt")
    assert_same_run(run.path, uninterrupted)


def test_a_run_that_went_back_goes_on_from_there_whatever_ends_it(tmp_path: Path, uninterrupted: Path) -> None:
    """What it recorded after that checkpoint is cut off: a later one would not know of it."""
    run = make_run(tmp_path / "r")
    make_trainer(run).fit()

    def fail(step: int) -> None:
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="is gone"):
        make_trainer(run, ToyTask(fail)).fit(resume=run.checkpoints / "previous.pt")
    last, previous = (load_checkpoint(run.checkpoints / f"{name}.pt")["state"]["step"] for name in ("last", "previous"))
    assert last == previous
    make_trainer(run).fit(resume=True)
    assert_same_run(run.path, uninterrupted)


def test_killed_between_evaluation_and_checkpoint(tmp_path: Path, uninterrupted: Path) -> None:
    """Rows that no checkpoint knows of are dropped; those of its own step are kept once."""
    run = make_run(tmp_path / "r")
    with pytest.raises(Interrupted):
        make_trainer(run, ToyTask(signal_self(signal.SIGTERM, 7))).fit()
    trainer = make_trainer(run)
    trainer.checkpoints.save = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(resume=True)
    assert {row.step for row in run.metrics("test")} >= {8}
    make_trainer(run).fit(resume=True)
    assert_same_run(run.path, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    run = make_run(tmp_path / "r")
    first = make_trainer(run).fit()
    task = ToyTask(lambda step: pytest.fail("no step is left"))
    assert make_trainer(run, task).fit(resume=True).final == first.final
    assert_same_run(run.path, uninterrupted)


def test_starting_anew_forgets_the_old_metrics(tmp_path: Path, uninterrupted: Path) -> None:
    run = make_run(tmp_path / "r")
    run.log(1, 1, "train", {"loss": 9.0})
    make_trainer(run).fit()
    assert_same_run(run.path, uninterrupted)


def test_generators_without_a_saved_state_start_from_the_seed_of_the_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU's, of a run that began without one: all ranks would else draw the same numbers there."""
    run = make_run(tmp_path / "r")
    summary = make_trainer(run).fit()
    seeds: list[int] = []
    monkeypatch.setattr(checkpointing, "seed_all", seeds.append)
    trainer = make_trainer(run)
    trainer.fit(resume=True)
    assert seeds == [trainer.checkpoints._seed + summary.steps]


def test_optimisers_compute_as_suits_the_device_that_the_run_goes_on_on(tmp_path: Path) -> None:
    class Fused(ToyTask):
        def optimisations(self, plan: Plan) -> list[Optimisation]:
            body, head = super().optimisations(plan)
            fused = torch.optim.AdamW(self.body.parameters(), lr=0.01, fused=True)
            return [Optimisation(fused, body.schedule, "body"), head]

    run = make_run(tmp_path / "r")
    make_trainer(run).fit()
    task = Fused()
    trainer = make_trainer(run, task)
    trainer.fit(resume=True)
    (group,) = trainer.stepper.optimisations[0].optimizer.param_groups
    assert group["fused"] is True
    assert group["lr"] == trainer.stepper.rates[0][0]


def test_nothing_to_resume(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    assert not run.has_checkpoint
    with pytest.raises(UserError, match="no checkpoint"):
        make_trainer(run).fit(resume=True)


Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def program() -> Iterator[Program]:
    """Start :mod:`tests.training.toy` in a process of its own; none outlives the test."""
    started = []

    def start(path: Path, mode: str, halt: int = -1) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.training.toy", str(path), mode, str(halt)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_real_process_stopped_and_killed(tmp_path: Path, program: Program) -> None:
    """SIGTERM within the second epoch; then SIGKILL within the third, whose checkpoint is that of its start."""
    whole, broken, halted = tmp_path / "whole", tmp_path / "broken", tmp_path / "halted"
    assert program(whole, "fresh").wait(300) == 0
    first = program(broken, "fresh", halt=5)
    wait_for(halted, first)
    first.send_signal(signal.SIGTERM)
    halted.unlink()
    _, said = first.communicate(timeout=300)
    assert first.returncode == 143
    assert "Stopped by SIGTERM after step 6 of 16" in said
    assert "Traceback" not in said
    second = program(broken, "resume", halt=10)
    wait_for(halted, second)
    second.kill()
    second.wait()
    halted.unlink()
    assert load_checkpoint(broken / "checkpoints" / "last.pt")["state"]["step"] == 8
    assert program(broken, "resume").wait(300) == 0
    assert_same_run(broken, whole)


# --- Several ranks ----------------------------------------------------------------------------------------------------


class Noiseless(ToyTask):
    """Per-sample losses only, so that two ranks compute what one does."""

    def losses(self, batch: Any, progress: Any) -> Any:
        from wasskit.training.task import Losses

        x, y = batch
        error = (self.head(self.body[0](x).tanh()) - y).square().mean()
        return Losses(error, {"error": error})


def train_on_ranks(path: Path, what: str) -> dict[str, Any]:
    from wasskit.distributed.group import rank

    torch.manual_seed(rank())
    stop = signal_self(signal.SIGTERM, 5, on_rank=1) if what == "stop" else (lambda step: None)
    task: ToyTask = Noiseless(stop) if what == "parity" else ToyTask(stop)
    if what == "nan":

        def spoil(step: int) -> None:
            if (step, rank()) == (5, 1):
                task.head.bias.data.fill_(float("nan"))

        task.before_step = spoil
    if what == "parity" and rank() == 1:
        torch.nn.init.zeros_(task.head.weight)  # the start is rank 0's
    run = RunDirectory.open(path) if what == "resume" else make_run(path)
    result: dict[str, Any] = {}
    trainer = make_trainer(run, task, accumulate=1)
    try:
        trainer.fit(resume=what == "resume")
    except (Interrupted, RunFailed) as error:
        result["error"] = (type(error).__name__, str(error), error.exit_code)
    result["weight"] = task.head.weight.detach().clone()
    result["drawn"] = task.drawn
    result["evaluated"] = trainer.summary().final
    return result


@pytest.mark.distributed
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    first, second = run_ranks(train_on_ranks, 2, tmp_path / "two", "parity")
    alone = train_on_ranks(tmp_path / "one", "parity")
    assert torch.equal(first["weight"], second["weight"])
    torch.testing.assert_close(first["weight"], alone["weight"], rtol=1e-5, atol=1e-6)
    one, two = (RunDirectory.open(tmp_path / name).metrics("train", "error") for name in ("one", "two"))
    assert [row.value for row in two] == pytest.approx([row.value for row in one], rel=1e-5)


@pytest.mark.distributed
def test_two_ranks_stop_and_resume_together(tmp_path: Path) -> None:
    stopped = run_ranks(train_on_ranks, 2, tmp_path / "r", "stop")
    assert {result["error"] for result in stopped} == {stopped[0]["error"]}
    assert stopped[0]["error"][0] == "Interrupted"
    assert stopped[0]["error"][2] == 143
    resumed = run_ranks(train_on_ranks, 2, tmp_path / "r", "resume")
    whole = run_ranks(train_on_ranks, 2, tmp_path / "whole", "run")
    assert torch.equal(resumed[0]["weight"], whole[0]["weight"])
    assert_same_run(tmp_path / "r", tmp_path / "whole")
    assert resumed[0]["evaluated"] == resumed[1]["evaluated"], "all ranks evaluate one network"
    assert whole[0]["drawn"] != whole[1]["drawn"], "each rank draws numbers of its own"


@pytest.mark.distributed
def test_a_bad_loss_on_one_rank_stops_both(tmp_path: Path) -> None:
    results = run_ranks(train_on_ranks, 2, tmp_path / "r", "nan")
    for result in results:
        assert result["error"][0] == "RunFailed"
        assert "The loss was nan at step 5 " in result["error"][1]
