"""The loop: what it computes, when it logs, evaluates and saves, and how it stops."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.toy import DIM, OPTIONS, Shuffled, ToyTask, make_run, make_trainer, signal_self, trainer_of
from wasskit.errors import Interrupted, RunFailed, UserError
from wasskit.ot.precision import Precision
from wasskit.system.signals import Stopped, raised
from wasskit.training.logging import Reporter
from wasskit.training.run import RunDirectory
from wasskit.training.schedules import cosine
from wasskit.training.task import Losses, Optimisation, Plan, Progress, StepSource, Task
from wasskit.training.trainer import Trainer


class Linear(Task):
    """Least squares; every hook notes that it was called."""

    monitor = "test/error"
    monitor_mode = "min"

    def __init__(self, change: Callable[[int, Tensor], Tensor] = lambda step, loss: loss) -> None:
        super().__init__()
        self.net = nn.Linear(DIM, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.change = change
        self.calls: list[tuple[str, int, int]] = []
        self.scores: Iterator[float] = iter(range(1000, 0, -1))

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        self.plan = plan
        return [Optimisation(torch.optim.SGD(self.parameters(), lr=0.1), cosine(plan.total_steps))]

    def losses(self, batch: Any, progress: Progress) -> Losses:
        self.calls.append(("losses", progress.epoch, progress.step))
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        return Losses(self.change(progress.step, loss), {"twice": 2 * loss, "constant": 3.0})

    def start_epoch(self, progress: Progress) -> None:
        self.calls.append(("start_epoch", progress.epoch, progress.step))

    def after_update(self, progress: Progress) -> None:
        self.calls.append(("after_update", progress.epoch, progress.step))

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        self.calls.append(("evaluate", progress.epoch, progress.step))
        return {"test": {"error": next(self.scores)}}


def steps_of(task: Linear, hook: str) -> list[int]:
    return [step for name, _, step in task.calls if name == hook]


def saved(run: RunDirectory, name: str = "last") -> dict[str, Any]:
    return torch.load(run.checkpoints / f"{name}.pt", weights_only=True)  # type: ignore[no-any-return]


def fit(task: Task, run: RunDirectory | None = None, **settings: Any) -> Trainer:
    trainer = trainer_of(task, Shuffled(), run, **{"epochs": 2, "track": (), **settings})
    trainer.fit()
    return trainer


def test_updates_are_those_of_a_plain_loop() -> None:
    task, source = Linear(), Shuffled()
    fit(task)
    weight, bias = torch.zeros(1, DIM), torch.zeros(1)
    schedule = cosine(14)
    batches = [batch for epoch in range(2) for batch in source.batches(epoch)]
    for step, (x, y) in enumerate(batches):
        residual = x @ weight.T + bias - y
        weight = weight - 0.1 * schedule(step) * 2 * (residual * x).mean(0)
        bias = bias - 0.1 * schedule(step) * 2 * residual.mean()
    torch.testing.assert_close(task.net.weight.detach(), weight)
    torch.testing.assert_close(task.net.bias.detach(), bias)


def test_accumulated_batches_equal_one_large_batch() -> None:
    small, large = Linear(), Linear()
    trainer_of(small, Shuffled(batch_size=8), epochs=2, accumulate=7).fit()
    trainer_of(large, Shuffled(batch_size=56), epochs=2).fit()
    torch.testing.assert_close(small.net.weight, large.net.weight)
    assert steps_of(small, "after_update") == [0, 1]


def test_the_last_update_of_an_epoch_takes_what_is_left() -> None:
    task = Linear()
    trainer = fit(task, accumulate=3)
    assert trainer.plan == task.plan == Plan(total_steps=6, steps_per_epoch=3)
    assert steps_of(task, "losses") == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5]
    assert [epoch for name, epoch, _ in task.calls if name == "losses"] == [0] * 7 + [1] * 7
    assert [call[1:] for call in task.calls if call[0] == "start_epoch"] == [(0, 0), (1, 3)]


def test_cadence_of_epochs(tmp_path: Path) -> None:
    task, run = Linear(), make_run(tmp_path / "r")
    summary = trainer_of(task, Shuffled(), run, epochs=5, eval_every=2, log_every=4, evaluate_first=True).fit()
    assert steps_of(task, "evaluate") == [0, 14, 28, 35]
    assert [row.step for row in run.metrics("train", "loss")] == [4, 8, 12, 14, 16, 20, 24, 28, 32, 35]
    assert [(row.epoch, row.step) for row in run.metrics("test")] == [(0, 0), (2, 14), (4, 28), (5, 35)]
    assert summary.steps == 35
    assert summary.epochs == 5.0
    assert summary.best is not None
    assert summary.best.step == 35
    written = json.loads((run.path / "summary.json").read_text())
    assert written["final"] == {"test/error": 997.0}
    assert written["best"]["metrics"] == {"test/error": 997.0}
    assert written["samples_per_second"] > 0
    assert 0 <= written["waiting_share"] <= 1
    assert list((run.path / "tensorboard").iterdir())


def test_cadence_of_steps(tmp_path: Path) -> None:
    task, run = Linear(), make_run(tmp_path / "r")
    drawn: list[int] = []

    def draw(number: int) -> tuple[Tensor, Tensor]:
        drawn.append(number)
        x = torch.randn(4, DIM, generator=torch.Generator().manual_seed(number))
        return x, x[:, :1]

    source = StepSource(draw, steps_per_epoch=8, batch_size=4)
    trainer_of(task, source, run, steps=20, eval_every=6, log_every=5, track=()).fit()
    assert drawn == list(range(20))
    assert steps_of(task, "evaluate") == [6, 12, 18, 20]
    assert steps_of(task, "start_epoch") == [0, 8, 16]
    usual = Linear()
    trainer_of(usual, source, steps=20).fit()
    assert steps_of(usual, "evaluate") == list(range(2, 21, 2))
    rare = Linear()
    trainer_of(rare, source, steps=20, eval_every=0).fit()
    assert steps_of(rare, "evaluate") == [20]


def test_logged_means(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    task = Linear(lambda step, loss: loss * 0 + step)
    fit(task, run, log_every=5, eval_every=0)
    assert [row.value for row in run.metrics("train", "loss")] == [2.0, 7.0, 11.5]
    assert {row.value for row in run.metrics("train", "constant")} == {3.0}
    rates = [row.value for row in run.metrics("train", "lr")]
    assert rates == [0.1 * cosine(14)(step) for step in (4, 9, 13)]


def test_terms_that_come_and_go_are_averaged_over_their_own_steps(tmp_path: Path) -> None:
    class Sometimes(Linear):
        def losses(self, batch: Any, progress: Progress) -> Losses:
            losses = super().losses(batch, progress)
            return Losses(losses.total, {f"kind{progress.step % 3 == 0}": float(progress.step)})

    run = make_run(tmp_path / "r")
    fit(Sometimes(), run, log_every=7, eval_every=0)
    assert [row.value for row in run.metrics("train", "kindTrue")] == [3.0, (9 + 12) / 2]
    assert [row.value for row in run.metrics("train", "kindFalse")] == [3.0, (7 + 8 + 10 + 11 + 13) / 5]


def test_clipping() -> None:
    class Steep(Linear):
        seen: list[float]

        def optimisations(self, plan: Plan) -> list[Optimisation]:
            self.seen = []
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            optimizer.register_step_pre_hook(lambda *_: self.note())
            return [Optimisation(optimizer)]

        def note(self) -> None:
            gradient = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])
            self.seen.append(float(gradient.norm()) if self.by_norm else float(gradient.abs().max()))

        by_norm = True

    task = Steep(lambda step, loss: 1e4 * loss)
    fit(task, epochs=1, clip_norm=0.5)
    assert task.seen == pytest.approx([0.5] * 7)
    task = Steep(lambda step, loss: 1e4 * loss)
    task.by_norm = False
    fit(task, epochs=1, clip_value=10.0)
    assert task.seen == [10.0] * 7


def test_best_is_kept(tmp_path: Path) -> None:
    run, task = make_run(tmp_path / "r"), Linear()
    task.scores = iter([3.0, 1.0, math.nan, 2.0, 1.0])
    trainer = fit(task, run, epochs=5)
    best = trainer.summary().best
    assert best is not None
    assert (best.value, best.step, best.epoch) == (1.0, 14, 2)
    assert saved(run, "best")["state"]["step"] == 14
    assert (saved(run)["state"]["step"], saved(run, "previous")["state"]["step"]) == (35, 28)


def test_a_monitor_that_no_evaluation_gives_is_said(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Reporter):
        def message(self, text: str) -> None:
            said.append(text)

    task, run = Linear(), make_run(tmp_path / "r")
    task.monitor = "test/eror"
    fit(task, run, reporter=Listening())
    assert said == ["no evaluation gave 'test/eror', hence no best.pt; there is test/error"]
    assert not (run.checkpoints / "best.pt").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_never_waits_within_a_step(precision: Precision) -> None:
    x = torch.randn(8, DIM, device="cuda")

    def watch(step: int, loss: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("error" if 3 <= step < 15 else "default")
        return loss

    source = StepSource(lambda number: (x, x[:, :1]), steps_per_epoch=10)
    try:
        trainer_of(
            Linear(watch),
            source,
            epochs=2,
            device="cuda",
            precision=precision,
            log_every=99,
            eval_every=0,
            clip_norm=1.0,
        ).fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_untrained_network_can_be_the_best(tmp_path: Path) -> None:
    run, task = make_run(tmp_path / "r"), Linear()
    task.scores = iter([1.0, 2.0, 3.0])
    fit(task, run, evaluate_first=True)
    assert saved(run, "best")["state"]["step"] == 0


def test_evaluation_leaves_the_training_numbers_alone() -> None:
    weights = []
    for every in (1, 0):
        task = ToyTask()
        make_trainer(None, task, eval_every=every).fit()
        weights.append(task.head.weight.detach().clone())
    assert torch.equal(*weights)


def test_same_seed_same_run() -> None:
    tasks = [ToyTask(), ToyTask(), ToyTask()]
    for task, seed in zip(tasks, (1, 1, 2), strict=True):
        make_trainer(None, task, seed=seed).fit()
    assert torch.equal(tasks[0].head.weight, tasks[1].head.weight)
    assert not torch.equal(tasks[0].head.weight, tasks[2].head.weight)


def test_frozen_in_the_first_epoch() -> None:
    task = ToyTask()
    weight = task.body.get_parameter("0.weight")
    before = weight.detach().clone()
    make_trainer(None, task, epochs=1).fit()
    assert torch.equal(weight, before)
    make_trainer(None, task, epochs=2).fit()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, value: float) -> None:
    run = make_run(tmp_path / "r")
    task = Linear(lambda step, loss: loss * value if step == 9 else loss)
    with pytest.raises(RunFailed) as caught:
        fit(task, run, log_every=100)
    message = str(caught.value)
    assert "at step 9 " in message
    assert "twice" in message
    assert f"{run.checkpoints / 'last.pt'} (step 7)" in message
    assert saved(run)["state"]["step"] == 7
    assert torch.isfinite(saved(run)["task"]["net.weight"]).all()
    assert {row.step for row in run.metrics()} == {7}


def test_a_bad_gradient_of_a_good_loss_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    """sqrt has an infinite slope at 0: the loss is 0 and finite, its gradient is not."""
    run = make_run(tmp_path / "r")
    task = Linear(lambda step, loss: loss + (task.net.weight.sum() * 0).abs().sqrt() if step == 13 else loss)
    with pytest.raises(RunFailed, match="parameter was not finite after step 14"):
        fit(task, run)
    assert torch.isfinite(saved(run)["task"]["net.weight"]).all()
    clipped = Linear(lambda step, loss: loss + (clipped.net.weight.sum() * 0).abs().sqrt() if step == 12 else loss)
    with pytest.raises(RunFailed, match=r"at step 12 .*grad_norm nan"):
        fit(clipped, clip_norm=1.0)


def test_nothing_saved_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"at step 0 .*No checkpoint had been written"):
        fit(Linear(lambda step, loss: loss * math.nan), make_run(tmp_path / "r"))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138), ("SIGHUP", 129)])
def test_signals_save_and_stop(tmp_path: Path, name: str, code: int) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    run = make_run(tmp_path / "r")
    with pytest.raises(Interrupted, match=f"{name} after step 4 of 16.*--resume {run.path}") as caught:
        make_trainer(run, ToyTask(signal_self(number, 3))).fit()
    assert caught.value.exit_code == code
    assert saved(run)["state"]["step"] == 4
    assert signal.getsignal(number) == before
    assert run.summary is None


def stopped_at_the_end(run: RunDirectory, task: ToyTask) -> None:
    """Train as a command does, within the claim and with signals that end it where nobody listens."""

    def command() -> None:
        with raised(), run.claimed(), run.concluded():
            make_trainer(run, task).fit()
            (run.path / "export.done").touch()
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises((Interrupted, Stopped)):
        command()


def assert_goes_on(run: RunDirectory) -> None:
    """Nothing half written, no summary; resumed, the run ends where it should."""
    assert not list(run.path.rglob(".*.tmp"))
    assert not (run.path / "summary.json").exists()
    make_trainer(run, ToyTask()).fit(resume=True)
    assert (run.summary or {})["steps"] == 16
    assert saved(run)["state"]["step"] == 16


class EverWorse(ToyTask):
    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {"test": {"error": float(progress.step)}}


def test_the_evaluation_after_a_stop_at_the_last_step_is_saved(tmp_path: Path) -> None:
    """No improvement, and of a step that is saved already: the checkpoint is still to hold it."""
    run = make_run(tmp_path / "r")
    with pytest.raises(Interrupted, match="after step 16 of 16"):
        make_trainer(run, EverWorse(signal_self(signal.SIGTERM, 15))).fit()
    assert saved(run)["state"]["evaluated_at"] < 16
    make_trainer(run, EverWorse()).fit(resume=True)
    assert saved(run)["state"]["evaluated_at"] == 16


class LastEvaluation(ToyTask):
    """Asks to stop during the last evaluation."""

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        if progress.step == 16:
            signal.raise_signal(signal.SIGTERM)
        return super().evaluate(progress)


@pytest.mark.parametrize("kind", [LastEvaluation, ToyTask])
def test_a_stop_after_the_last_step_leaves_a_run_that_goes_on(tmp_path: Path, kind: type[ToyTask]) -> None:
    """In the last evaluation, or in the figures and the export that a command makes after it."""
    run = make_run(tmp_path / "r")
    stopped_at_the_end(run, kind())
    assert (run.path / "export.done").exists() == (kind is ToyTask)
    assert_goes_on(run)


def test_a_stop_while_the_summary_is_written_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "r")
    make_trainer(run, ToyTask()).fit()
    run.remove_summary()
    flush = os.fsync

    def interrupted(handle: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with raised(), pytest.raises(Stopped):
            run.write_summary({"steps": 16})
    assert_goes_on(run)


def test_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        make_trainer(make_run(tmp_path / "r"), ToyTask(signal_self(int(signal.SIGHUP), 3))).fit()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_ctrl_c_stops_at_once() -> None:
    def twice(step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    task = ToyTask(twice)
    with pytest.raises(Interrupted, match="at once"):
        make_trainer(None, task).fit()


def test_other_threads_may_train() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            make_trainer(None, epochs=1).fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_bf16_and_channels_last() -> None:
    class Convolution(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)
            self.kinds: set[torch.dtype] = set()

        def losses(self, batch: Any, progress: Progress) -> Losses:
            x, _ = batch
            maps = self.conv(x[:, :, None, None].expand(-1, -1, 3, 3)[:, :2])
            self.kinds.add(maps.dtype)
            return Losses(maps.float().square().mean(), {"half": maps.mean()})

    task = Convolution()
    fit(task, precision="bf16", channels_last=True, epochs=1)
    assert task.kinds == {torch.bfloat16}
    assert task.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.conv.weight.dtype == torch.float32


def test_fp16_scales_and_unscales(tmp_path: Path) -> None:
    plain, scaled = Linear(), Linear()
    fit(plain, epochs=1)
    run = make_run(tmp_path / "r")
    trainer = trainer_of(scaled, Shuffled(), run, epochs=1, precision="fp16", clip_norm=1e9, track=())
    trainer.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.fit()
    torch.testing.assert_close(scaled.net.weight, plain.net.weight, rtol=0, atol=5e-3)
    assert saved(run)["scaler"]["scale"] == 64.0


def test_compiled_networks_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    task = Linear()
    fit(task, epochs=1, compile=True)
    assert compiled == [task.net]


@pytest.mark.slow
def test_a_run_imports_only_what_it_uses(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.training.toy import make_run, make_trainer
run = make_run(Path(sys.argv[1]))
make_trainer(run, epochs=2, track=["tensorboard"]).fit()
make_trainer(run, epochs=2).fit(resume=True)
unwanted = {"torchvision", "timm", "rich", "matplotlib", "tensorboard.program", "sklearn"}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=True, cwd=Path(__file__).parents[2])


def test_a_frozen_optimisation_is_clipped_to_nothing() -> None:
    make_trainer(None, epochs=2, clip_norm=1.0, clip_value=1.0).fit()


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="either in epochs or in steps"):
        trainer_of(Linear(), Shuffled())
    with pytest.raises(ValueError, match="precision"):
        trainer_of(Linear(), Shuffled(), epochs=1, precision="fp8")
    with pytest.raises(UserError, match="--batch-size"):
        trainer_of(Linear(), Shuffled(size=4, batch_size=8), epochs=1)
    with pytest.raises(ValueError, match="no optimisation is named"):
        make_trainer(None).stepper.update("tail")


def test_short_sources_are_found_out() -> None:
    class Short(Shuffled):
        def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            yield from list(super().batches(epoch, start))[:-1]

    with pytest.raises(RuntimeError, match="fewer than its 7 batches"):
        trainer_of(Linear(), Short(), epochs=1).fit()


def test_a_full_disk_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "r")

    def fill(step: int) -> None:
        if step == 9:

            def full(content: object, file: Any) -> None:
                raise OSError(28, os.strerror(28))

            monkeypatch.setattr(torch, "save", full)

    with pytest.raises(UserError, match=r"last\.pt: No space left on device"):
        make_trainer(run, ToyTask(fill), checkpoint_every=1).fit()
    monkeypatch.undo()
    assert saved(run)["state"]["step"] == 8
    resumed = make_trainer(run, ToyTask())
    assert resumed.fit(resume=True).steps == 16


def test_options_are_the_config_of_a_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    make_trainer(run, epochs=1).fit()
    assert saved(run)["config"] == OPTIONS
    with pytest.raises(UserError, match=r"last\.pt: lr \(0\.05 there, 0\.1 now\)"):
        make_trainer(run, config={**OPTIONS, "lr": 0.1}).fit(resume=True)
    with pytest.raises(UserError, match="steps_per_epoch"):
        make_trainer(run, accumulate=1).fit(resume=True)
    longer = make_trainer(run, epochs=2, config={**OPTIONS, "epochs": 2}, may_differ=("epochs",))
    assert longer.fit(resume=True).steps == 8
    with pytest.raises(UserError, match="does not fit"):
        trainer_of(Linear(), Shuffled(), run, epochs=2, accumulate=2, config={**OPTIONS, "epochs": 2}).fit(resume=True)


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    make_trainer(run, epochs=1).fit()
    other = RunDirectory(run.path, {**run.document, "command": "ssl byol"})
    with pytest.raises(UserError, match="of `wasskit toy train`, not of `wasskit ssl byol`"):
        make_trainer(other).fit(resume=True)
