"""A small task with every kind of state that a resumed run must bring back, and a program that trains it."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import rank, world_size
from wasskit.errors import WasskitError
from wasskit.training.cadence import Cadence
from wasskit.training.checkpointing import SavedConfig
from wasskit.training.run import RunDirectory
from wasskit.training.schedules import cosine
from wasskit.training.stepper import Updates
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Source, Stepper, Task
from wasskit.training.trainer import Trainer

OPTIONS = {"lr": 0.05, "epochs": 4, "name": "toy"}
DIM = 6


class Shuffled:
    """Regression batches of this rank's share, in an order that is a function of the epoch."""

    def __init__(self, size: int = 56, batch_size: int = 8) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(size, DIM, generator=generator)
        self.y = self.x.sin().sum(1, keepdim=True)
        self.batch_size = batch_size
        self.steps_per_epoch = size // batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        share = self.batch_size // world_size()
        for position in range(start, self.steps_per_epoch):
            first = position * self.batch_size + rank() * share
            chosen = order[first : first + share]
            yield self.x[chosen], self.y[chosen]


class ToyTask(Task):
    """Two optimisers, dropout, batch norm, a moving average, a queue, and draws from every global generator."""

    monitor = "test/error"
    monitor_mode = "min"

    def __init__(self, before_step: Callable[[int], None] = lambda step: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(DIM, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 1)
        self.average = nn.Linear(16, 1).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(5, 16))
        self.queue: Tensor
        self.drawn: list[float] = []
        self.before_step = before_step

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        body = torch.optim.AdamW(self.body.parameters(), lr=0.01)
        head = torch.optim.SGD(self.head.parameters(), lr=0.05, momentum=0.9)
        return [
            Optimisation(body, cosine(plan.total_steps), "body"),
            Optimisation(head, [cosine(plan.total_steps, end=0.5)], "head", clip_norm=1.0),
        ]

    def start_epoch(self, progress: Progress) -> None:
        self.body.requires_grad_(progress.epoch >= 1)

    def losses(self, batch: Any, progress: Progress) -> Losses:
        x, y = batch
        features = self.body(x)
        noise = random.gauss(0, 0.1) + float(np.random.standard_normal()) * 0.1  # noqa: NPY002
        self.drawn.append(noise)
        error = (self.head(features) - y - noise).square().mean()
        pull = (features.mean(0) - self.queue).square().mean()
        with torch.no_grad():
            mean = reduce_sum(features.mean(0)) / world_size()
            self.queue.copy_(torch.cat([mean[None], self.queue[:-1]]))
        terms: dict[str, Tensor | float] = {"error": error, "noise": noise}
        if progress.step % 3 == 0:
            terms["pull"] = pull
        return Losses(error + 0.1 * pull, terms)

    def step(self, batch: Any, stepper: Stepper) -> Losses:
        self.before_step(stepper.progress.step)
        with stepper.autocast():
            losses = self.losses(batch, stepper.progress)
        stepper.backward(losses.total)
        stepper.update("head")
        stepper.update("body")
        return losses

    def after_update(self, progress: Progress) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.head.parameters()), 0.1)
        self.head.weight.clamp_(-0.4, 0.4)

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        assert not self.training
        source = Shuffled()
        with torch.no_grad():
            error = (self.average(self.body(source.x)) - source.y).square().mean()
        return {"test": {"error": float(error), "draw": float(torch.rand(())) + random.random()}}

    def extra_state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.drawn = list(state["drawn"])


def trainer_of(task: Task, source: Source, run: RunDirectory | None = None, **settings: Any) -> Trainer:
    """The trainer whose groups of settings have these."""
    groups: dict[str, Any] = {}
    for name, kind in {"cadence": Cadence, "updates": Updates}.items():
        own = {f.name for f in fields(kind)} & set(settings)
        groups[name] = kind(**{key: settings.pop(key) for key in own})
    if "config" in settings:
        config = SavedConfig(values=settings.pop("config"), may_differ=settings.pop("may_differ", ()))
        groups["config"] = config
    return Trainer(task, source, run, **groups, **settings)


def make_trainer(run: RunDirectory | None, task: Task | None = None, **settings: Any) -> Trainer:
    settings = {"epochs": 4, "log_every": 5, "accumulate": 2, "seed": 3, "track": (), **settings}
    return trainer_of(task or ToyTask(), Shuffled(), run, **settings)


def make_run(path: Path) -> RunDirectory:
    return RunDirectory.create(path, command="toy train", options=OPTIONS, seed=3, device="cpu", argv=["toy", "train"])


def main(path: str, mode: str, halt: str) -> int:
    """Train in ``path``, ``mode`` fresh or resume. Before the step ``halt`` the file ``halted`` is made beside
    ``path``, and the step is taken when that is gone.
    """
    torch.set_num_threads(1)
    halted = Path(path).with_name("halted")
    ahead = {int(halt)}

    def wait(step: int) -> None:
        if step in ahead:
            ahead.remove(step)  # a step of several batches comes here for each
            halted.touch()
            while halted.exists():
                time.sleep(0.01)

    task = ToyTask(wait)
    try:
        run = RunDirectory.open(path) if mode == "resume" else make_run(Path(path))
        make_trainer(run, task).fit(resume=mode == "resume")
    except WasskitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def signal_self(number: int, at_step: int, on_rank: int = 0) -> Callable[[int], None]:
    """A ``before_step`` that sends this process a signal once."""

    def send(step: int) -> None:
        if step == at_step and rank() == on_rank:
            signal.raise_signal(number)

    return send


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
