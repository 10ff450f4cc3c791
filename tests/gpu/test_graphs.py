"""Steps of W2GN as CUDA graphs of the logical device: a replay of what was recorded is the step that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.device import Counts, LogicalCuda
from wasskit.plugins.w2gn.core.task import Pair, TransportTask
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import StepOptions
from wasskit.training.graphs import WARM_STEPS, GraphedSteps
from wasskit.training.stepper import Updates, UpdateStepper
from wasskit.training.task import Losses, Plan, Stepper

CUDA = torch.device("cuda")
STEPS = 8
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "newton": {"transport": {"refine": "newton"}},
    "cycles": {"transport": {"refine": "none", "cycle_x": 0.5, "l1": 1e-3, "start": "plain"}, "pretrain": 5},
    "target": {"transport": {"dual": "target"}, "options": {"clip_norm": 0.5}},
    "bf16": {"updates": {"precision": "bf16"}},
    "many": {"dim": 10, "transport": {"rank": 2}},
}


class Run:
    """A training of a few steps on the device, its losses and what it said."""

    def __init__(
        self, *, graph: bool, dim: int = 2, transport: dict[str, Any] | None = None, pretrain: int = 0,
        options: dict[str, Any] | None = None, updates: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        x, y = torch.randn(2, STEPS, 16, dim).unbind()
        settings = {"start": (x[0], 2.0 * y[0] + 1.0), "evaluations": 4, "hidden": (6, 5), **(transport or {})}
        pair = W2GN.dense(dim, **settings)
        own = StepOptions(batch_size=16, warmup_steps=4, **(options or {}))
        self.task = TransportTask(pair, own, lambda _: {}, pretrain=pretrain).to(CUDA)
        self.plan = Plan(STEPS + pretrain, STEPS)
        updated = Updates(cuda_graph=graph, **(updates or {}))
        self.stepper = UpdateStepper(self.task.optimisations(self.plan), updated, CUDA, self.plan)
        self.said: list[str] = []
        self.steps = GraphedSteps(self.task, self.stepper, self.said.append)
        self.batches = [Pair(a.to(CUDA), b.to(CUDA)) for a, b in zip(x, 2.0 * y + 1.0, strict=True)]
        self.losses: list[Tensor] = []

    def step(self, number: int) -> None:
        stepper = self.stepper
        stepper.progress = self.plan.at(number, 0)
        stepper.begin(1, final=True)
        losses = self.steps(self.batches[number % STEPS])
        self.losses.append(torch.stack([losses.total, *stepper.norms.values(), *losses.terms.values()]))  # type: ignore[list-item]
        stepper.end()
        with torch.no_grad():
            self.task.after_update(stepper.progress)

    def finish(self) -> Run:
        for number in range(self.plan.total_steps):
            self.step(number)
        return self


def assert_same(run: Run, other: Run) -> None:
    """Bit for bit: the networks, their average, the optimisers, and the losses of every step."""
    for (name, a), (_, b) in zip(run.task.state_dict().items(), other.task.state_dict().items(), strict=True):
        assert torch.equal(a.cpu(), b.cpu()), name
    for o, p in zip(run.stepper.optimisations, other.stepper.optimisations, strict=True):
        first, second = o.optimizer.state_dict(), p.optimizer.state_dict()
        assert first["param_groups"] == second["param_groups"]
        for key, state in first["state"].items():
            for name, value in state.items():
                assert torch.equal(value.cpu(), second["state"][key][name].cpu()), (o.name, name)
    for a, b in zip(run.losses, other.losses, strict=True):
        assert torch.equal(a.cpu(), b.cpu())


@pytest.fixture
def device() -> Any:
    with LogicalCuda() as device:
        yield device


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_replays_are_the_steps_that_they_stand_for(device: LogicalCuda, form: str) -> None:
    """All that a step reads is where it was when it was recorded, or the replay would differ; the rates follow their
    schedule meanwhile."""
    replayed = Run(graph=True, **FORMS[form]).finish()
    assert not replayed.said
    assert len(replayed.steps._recorded) == (2 if "pretrain" in FORMS[form] else 1)
    assert not any(recorded.losses.total.requires_grad for recorded in replayed.steps._recorded.values())
    plain = Run(graph=True, **FORMS[form])
    plain.steps._next = lambda kind, batch: plain.steps._aside(batch)  # type: ignore[method-assign]
    assert_same(replayed, plain.finish())


@pytest.mark.slow
def test_a_replay_is_few_launches_without_a_wait(device: LogicalCuda) -> None:
    """The batch, two rates, the graph, the average and the projection; the losses of this test are one more."""
    run = Run(graph=True).finish()
    device.counts = Counts()
    run.step(STEPS - 1)
    assert not device.counts.waits
    assert not device.counts.copies
    assert device.counts.operations <= 10
    plain = Run(graph=False).finish()
    device.counts = Counts()
    plain.step(STEPS - 1)
    assert not device.counts.waits
    assert device.counts.operations > 200


def test_rates_are_numbers_between_steps(device: LogicalCuda) -> None:
    """So a checkpoint of a run with graphs is one of a run without."""
    run = Run(graph=True)
    for number in range(STEPS):
        run.step(number)
        assert all(type(group["lr"]) is float for group in run.stepper.groups())
        assert not any(group["capturable"] for group in run.stepper.groups())
        wanted = run.stepper.optimisations[0].schedule(number) * 1e-2  # type: ignore[operator, misc]
        assert run.stepper.named_rates()["lr_psi"] == pytest.approx(wanted, rel=1e-12)


def reads_the_device(losses: Losses) -> None:
    losses.total.item()


HOST = torch.ones(())


def reads_the_host(losses: Losses) -> None:
    losses.total.add(HOST)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("obstacle", "reason"), [(reads_the_device, "not permitted"), (reads_the_host, "tensor of the host")]
)
def test_what_cannot_be_recorded_is_said_once_and_trains_on(
    device: LogicalCuda, monkeypatch: pytest.MonkeyPatch, obstacle: Callable[[Losses], None], reason: str
) -> None:
    plain = Run(graph=True)
    plain.steps._next = lambda kind, batch: plain.steps._aside(batch)  # type: ignore[method-assign]
    plain.finish()
    step = TransportTask.step

    def stumbling(self: TransportTask, batch: Pair, stepper: Stepper) -> Losses:
        losses = step(self, batch, stepper)
        obstacle(losses)
        return losses

    monkeypatch.setattr(TransportTask, "step", stumbling)
    stream = torch.cuda.current_stream()
    run = Run(graph=True).finish()
    assert torch.cuda.current_stream() is stream
    assert len(run.said) == 1
    assert reason in run.said[0]
    assert not run.steps.enabled
    assert len(run.losses) == STEPS > WARM_STEPS
    # Rates are numbers again after that, which round once less: one eps of the rate (1e-2 at most) a step, times the
    # update of Adam, of the size of one.
    bound = STEPS * 1e-2 * 4 * torch.finfo(torch.float32).eps
    for (name, a), (_, b) in zip(run.task.state_dict().items(), plain.task.state_dict().items(), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-4, atol=100 * bound, msg=name)


def test_a_device_without_streams_trains_on(device: LogicalCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("there are no streams here\nand more")

    monkeypatch.setattr(torch.cuda, "Stream", missing)
    run = Run(graph=True).finish()
    assert len(run.said) == 1
    assert run.said[0].endswith("there are no streams here.")
    assert len(run.losses) == STEPS


@pytest.mark.parametrize(("updates", "reason"), [({"precision": "fp16"}, "fp16"), ({"accumulate": 2}, "accumulated")])
def test_other_updates_are_taken_as_ever(device: LogicalCuda, updates: dict[str, Any], reason: str) -> None:
    run = Run(graph=True, updates=updates)
    run.step(0)
    run.step(1)
    assert len(run.said) == 1
    assert reason in run.said[0]


def test_without_the_option_or_the_device_nothing_is_recorded(device: LogicalCuda) -> None:
    assert not Run(graph=False).steps.enabled
    stepper = UpdateStepper([], Updates(cuda_graph=True), torch.device("cpu"), Plan(1, 1))
    assert not GraphedSteps(torch.nn.Module(), stepper, print).enabled  # type: ignore[arg-type]
