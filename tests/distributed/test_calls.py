"""What two ranks send each other in a steady step of a training, and that overlapping changes nothing but the time."""

from __future__ import annotations

import copy
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.distributed.harness import run_ranks
from wasskit.distributed import messages
from wasskit.distributed.collectives import gather_with_grad
from wasskit.distributed.gradients import GradientAverage
from wasskit.distributed.group import rank, world_size
from wasskit.errors import Interrupted
from wasskit.training import stops
from wasskit.training.cadence import Cadence
from wasskit.training.stepper import Updates
from wasskit.training.task import Losses, Optimisation, Plan, Progress, StepSource, Task
from wasskit.training.trainer import Trainer

pytestmark = pytest.mark.distributed

COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "broadcast_object_list", "all_gather_object", "barrier")
ELSEWHERE = 10_000
WARM, STEPS = 3, 6


class Counted:
    """Inside, `calls` lists the collectives called, with the bytes of the tensor sent."""

    def __enter__(self) -> list[tuple[str, int]]:
        self.before = {name: getattr(dist, name) for name in COLLECTIVES}
        self.calls: list[tuple[str, int]] = []
        for name, function in self.before.items():
            setattr(dist, name, self._noting(name, function))
        return self.calls

    def _noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            sent = [x.nbytes for x in args if isinstance(x, Tensor)]
            self.calls.append((name, sent[-1] if sent else 0))
            return function(*args, **kwargs)

        return call

    def __exit__(self, *_: object) -> None:
        for name, function in self.before.items():
            setattr(dist, name, function)


class Coupled(Task):
    """Three linear layers; the loss gathers ``gathers`` times. Notes the calls up to the end of each step."""

    def __init__(self, gathers: int, calls: list[tuple[str, int]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 4))
        self.gathers, self.calls = gathers, calls
        self.ends: list[int] = []

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        first, *rest = self.network
        second = [parameter for layer in rest for parameter in layer.parameters()]
        return [
            Optimisation(torch.optim.SGD(first.parameters(), lr=0.001), name="first"),
            Optimisation(torch.optim.SGD(second, lr=0.001), name="second"),
        ]

    def losses(self, batch: Tensor, progress: Progress) -> Losses:
        z = self.network(batch)
        terms = [gather_with_grad(z * (1 + i)).sin().mean() for i in range(self.gathers)]
        return Losses(z.square().mean() + sum(terms, torch.zeros(())))

    def after_update(self, progress: Progress) -> None:
        self.ends.append(len(self.calls))


def steady(gathers: int, accumulate: int, bucket_bytes: int) -> list[list[str]]:
    """The names of the collectives of each steady step."""
    stops.LOOK_SECONDS, looking = 1e6, stops.LOOK_SECONDS
    messages.BUCKET_BYTES, size = bucket_bytes, messages.BUCKET_BYTES
    try:
        with Counted() as calls:
            task = Coupled(gathers, calls)
            cadence = Cadence(steps=WARM + STEPS, eval_every=ELSEWHERE, checkpoint_every=ELSEWHERE, log_every=ELSEWHERE)
            source = StepSource(lambda number: torch.full((4, 8), 0.1 * rank()))
            trainer = Trainer(task, source, cadence=cadence, updates=Updates(accumulate=accumulate))
            trainer.fit()
    finally:
        stops.LOOK_SECONDS, messages.BUCKET_BYTES = looking, size
    ends = task.ends[WARM - 1 :]
    return [[name for name, _ in calls[a:b]] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("gathers", "accumulate", "buckets"), [(0, 1, 1), (0, 3, 1), (2, 1, 1), (1, 2, 1), (0, 1, 6), (2, 1, 6)]
)
def test_the_calls_of_a_steady_step(gathers: int, accumulate: int, buckets: int) -> None:
    """A message for each bucket of gradients, one for each tensor that is gathered and one for its gradient; no flags,
    no shapes, and none for batches whose gradients are still being accumulated."""
    # Buckets hold what is larger than they are alone: a message for each of the six parameters.
    expected = sorted(["all_reduce"] * (buckets + gathers * accumulate) + ["all_gather"] * gathers * accumulate)
    for steps in run_ranks(steady, 2, gathers, accumulate, 1 if buckets > 1 else messages.BUCKET_BYTES):
        assert len(steps) == STEPS
        assert [sorted(step) for step in steps] == [expected] * len(steps)


# ---- overlapping ----


def overlapped(overlap: bool, frozen_later: bool) -> list[list[Tensor | None]]:
    """Gradients of five updates of a network in which a branch is used on one rank, or in later updates, alone."""
    messages.BUCKET_BYTES, size = 200, messages.BUCKET_BYTES
    try:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        late, own, never = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        parameters = [*body.parameters(), *late.parameters(), *own.parameters(), *never.parameters()]
        average = GradientAverage(parameters)
        found = []
        for update in range(5):
            for parameter in parameters:
                parameter.grad = None
            body[0].requires_grad_(not (frozen_later and update >= 3))
            z = body(torch.arange(8.0).reshape(2, 4) / 8 + rank() + update)
            if update >= 2:
                z = late(z)
            if rank() == 1 and update % 2:
                z = own(z)
            if overlap:
                average.start()
            (z.square().mean() * 3).backward()
            average.finish()
            found.append([None if p.grad is None else p.grad.clone() for p in parameters])
        return found
    finally:
        messages.BUCKET_BYTES = size


@pytest.mark.parametrize("frozen_later", [False, True])
def test_gradients_sent_during_the_backward_pass_are_those_sent_after_it(frozen_later: bool) -> None:
    plain, overlapping = (run_ranks(overlapped, 2, overlap, frozen_later) for overlap in (False, True))
    for ours, theirs in zip(plain, overlapping, strict=True):
        for before, after in zip(ours, theirs, strict=True):
            assert [g is None for g in before] == [g is None for g in after]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a is not None)
    first, second = overlapping
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True) if x is not None), (
            "ranks end with the same bits"
        )
    # Six of the body, two each of the branch from the third update on, of rank 1's own in odd updates, and of none.
    there = [[g is not None for g in update] for update in first]
    for update, flags in enumerate(there):
        frozen = frozen_later and update >= 3
        expected = [not frozen] * 2 + [True] * 4 + [update >= 2] * 2 + [update % 2 == 1] * 2 + [False] * 2
        assert flags == expected, update


def in_two_passes(overlap: bool) -> list[Tensor]:
    """Two backward passes before one averaging."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    average = GradientAverage(network.parameters())
    for factor in (1.0, 2.0):
        if overlap:
            average.start()
        (network(torch.ones(2, 3) * (rank() + 1)) * factor).sin().sum().backward()
    average.finish()
    return [copy.copy(parameter.grad) for parameter in network.parameters() if parameter.grad is not None]


def test_two_backward_passes_before_one_average() -> None:
    for ours, theirs in zip(run_ranks(in_two_passes, 2, False), run_ranks(in_two_passes, 2, True), strict=True):
        # Another order of the same sums of two passes on two ranks, of size one: a few roundings.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=16 * torch.finfo(torch.float32).eps)


def accumulated(order: list[int]) -> list[Tensor]:
    """Gradients of two updates of three batches each; the parameters are given in an order of the layers."""
    messages.BUCKET_BYTES, size = 1, messages.BUCKET_BYTES
    try:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 3) for _ in range(4)]
        parameters = [parameter for place in order for parameter in layers[place].parameters()]
        network = nn.Sequential(*layers)
        average = GradientAverage(parameters)
        found: list[Tensor] = []
        for update in range(2):
            for batch in range(3):
                if batch == 2:
                    average.start()
                network(torch.ones(2, 3) * (rank() + update + 0.5 * batch)).sin().mean().backward()
            average.finish()
            found += [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
            network.zero_grad()
        return found
    finally:
        messages.BUCKET_BYTES = size


def test_nothing_is_sent_before_the_last_of_several_batches() -> None:
    """Whichever gradients of a batch before it come first."""
    expected, _ = run_ranks(accumulated, 2, [0, 1, 2, 3])
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        for found in run_ranks(accumulated, 2, order):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True)), order


# ---- signals ----


class Signalled(Coupled):
    """Sends itself a signal on one rank after a step."""

    def after_update(self, progress: Progress) -> None:
        super().after_update(progress)
        if progress.step == 5 and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def signalled() -> tuple[int, int, int]:
    """The signal, the step that a training ended after, and how often ranks looked until then."""
    stops.LOOK_SECONDS, looking = 1e6, stops.LOOK_SECONDS
    stops.MOST_STEPS, most = 4, stops.MOST_STEPS
    try:
        with Counted() as calls:
            task = Signalled(0, calls)
            cadence = Cadence(steps=100, eval_every=ELSEWHERE, checkpoint_every=ELSEWHERE, log_every=ELSEWHERE)
            trainer = Trainer(task, StepSource(lambda number: torch.ones(4, 8)), cadence=cadence)
            try:
                trainer.fit()
            except Interrupted as stop:
                looks = sum(size == 16 for _, size in calls)
                return 128 - stop.exit_code, trainer.loop.state.step, looks
    finally:
        stops.LOOK_SECONDS, stops.MOST_STEPS = looking, most
    return 0, 0, 0


def test_ranks_look_for_signals_every_few_steps_and_stop_together() -> None:
    """Looks before the first step and after steps 1, 5 and 9: the signal of the sixth step is met at the last."""
    for number, step, looks in run_ranks(signalled, 2):
        assert (-number, step, looks) == (signal.SIGUSR1, 9, 4)
