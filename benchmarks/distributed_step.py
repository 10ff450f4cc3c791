"""What two ranks send each other in a training step: calls, bytes and time, over gloo on this machine.

Counts the collectives of ``torch.distributed`` in steady steps (no log, evaluation or checkpoint among them) of a
residual network on random images, with its batch norms local or synchronised, and with a loss of the whole batch. Bytes
are those of the tensors that a rank puts in. The plain form trains the same network in the same processes by torch's
``DistributedDataParallel``; it knows local batch norm and no loss of the whole batch.

    python benchmarks/distributed_step.py [--backbone resnet18] [--batch-size 32] [--size 32] [--steps 8] [--json]
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Seconds, benchmark, main
from wasskit.distributed.collectives import gather_with_grad
from wasskit.distributed.group import init_group, rank, world_size
from wasskit.distributed.norm import convert_sync_batchnorm
from wasskit.models.backbones import build_backbone
from wasskit.training.cadence import Cadence
from wasskit.training.stepper import Updates
from wasskit.training.task import Losses, Optimisation, Plan, Progress, StepSource, Task
from wasskit.training.trainer import Trainer

COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "barrier")
CASES = ("local batch norm", "synchronised", "whole batch", "accumulate 2")
DDP = "torch's DDP"


@dataclass(frozen=True)
class Setting:
    backbone: str
    batch_size: int
    size: int
    steps: int


class Counter:
    """Counts calls and bytes of ``torch.distributed`` while ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.calls: dict[str, int] = {}
        self.bytes = 0
        for name in COLLECTIVES:
            setattr(dist, name, self._counting(name, getattr(dist, name)))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                self.calls[name] = self.calls.get(name, 0) + 1
                sent = [x for x in args if isinstance(x, Tensor)]
                self.bytes += sent[-1].nbytes if sent else 0
            return function(*args, **kwargs)

        return call


class Classifier(Task):
    """A backbone and a linear layer; with ``whole`` the loss couples the samples of all ranks."""

    def __init__(self, backbone: str, size: int, case: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = build_backbone(backbone, image_size=size)
        self.network = nn.Sequential(body, nn.Linear(body.num_features, 10))
        self.whole = case == "whole batch"
        if case == "synchronised":
            convert_sync_batchnorm(self.network)

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        return [Optimisation(torch.optim.SGD(self.parameters(), lr=0.01))]

    def losses(self, batch: tuple[Tensor, Tensor], progress: Progress) -> Losses:
        images, labels = batch
        scores = self.network(images)
        loss = F.cross_entropy(scores, labels)
        if self.whole:
            joined = F.normalize(gather_with_grad(scores), dim=1)
            loss = loss + (joined @ joined.T).square().mean()
        return Losses(loss)


class Steps(StepSource):
    """The same random images in each step; counts from batch ``begin`` on."""

    def __init__(self, counter: Counter, begin: int, batch: tuple[Tensor, Tensor]) -> None:
        super().__init__(lambda number: batch, steps_per_epoch=100_000)
        self.counter, self.begin, self.began = counter, begin, 0.0

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(super().batches(epoch, start)):
            if number == self.begin:
                self.counter.on, self.began = True, time.perf_counter()
            yield batch


def measure(case: str, arguments: Setting, counter: Counter) -> dict[str, Any]:
    """Calls, bytes and seconds of an update of one rank."""
    images = torch.randn(arguments.batch_size // world_size(), 3, arguments.size, arguments.size)
    batch = images, torch.arange(len(images)) % 10
    each, warm = 2 if case == "accumulate 2" else 1, 4
    counter.calls, counter.bytes = {}, 0
    task = Classifier(arguments.backbone, arguments.size, case)
    if case == DDP:
        seconds = reference(task, batch, warm, arguments.steps)
        return {"seconds": seconds}
    source = Steps(counter, warm * each, batch)
    # The last step of a run evaluates and saves: it is left out.
    cadence = Cadence(steps=warm + arguments.steps + 1, eval_every=100_000, checkpoint_every=100_000, log_every=100_000)
    trainer = Trainer(task, source, cadence=cadence, updates=Updates(accumulate=each))
    ends: list[float] = []

    def after(progress: Progress) -> None:
        if progress.step == warm + arguments.steps - 1:
            ends.append(time.perf_counter())
            counter.on = False

    task.after_update = after  # type: ignore[method-assign]
    trainer.fit()
    return {
        "calls": {name: count / arguments.steps for name, count in counter.calls.items()},
        "bytes": counter.bytes / arguments.steps,
        "seconds": (ends[0] - source.began) / arguments.steps,
    }


def reference(task: Classifier, batch: tuple[Tensor, Tensor], warm: int, steps: int) -> float:
    """Seconds of a step of torch's own."""
    network = nn.parallel.DistributedDataParallel(task.network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    began = 0.0
    for step in range(warm + steps):
        if step == warm:
            began = time.perf_counter()
        optimiser.zero_grad()
        F.cross_entropy(network(batch[0]), batch[1]).backward()
        optimiser.step()
    return (time.perf_counter() - began) / steps


def run_rank(place: int, port: int, setting: Setting, asked: Any, results: Any) -> None:
    """Measure the cases that are asked for, until None is."""
    os.environ.update(
        RANK=str(place), WORLD_SIZE="2", LOCAL_RANK=str(place), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    init_group("cpu")
    counter = Counter()
    for case in iter(asked.get, None):
        found = measure(case, setting, counter)
        if rank() == 0:
            results.put(found)


@benchmark(
    "a step on two ranks",
    plain="torch's DistributedDataParallel, local batch norm",
    clock="wall",
    threads=(1,),
    quick={"backbone": "tiny", "batch_size": 8, "size": 8, "steps": 1, "cases": CASES[:1]},
    full={"cases": CASES[:2]},
)
def distributed_step(
    *, backbone: str = "resnet18", batch_size: int = 32, size: int = 32, steps: int = 8, cases: tuple[str, ...] = CASES
) -> Iterator[Case]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results, asked = context.Queue(), [context.Queue() for _ in range(2)]
    setting = Setting(backbone, batch_size, size, steps)
    ranks = [
        context.Process(target=run_rank, args=(place, port, setting, queue, results), daemon=True)
        for place, queue in enumerate(asked)
    ]
    for process in ranks:
        process.start()
    sent: dict[str, dict[str, Any]] = {}

    def run(case: str | None) -> Seconds:
        for queue in asked:
            queue.put(case)
        sent[str(case)] = results.get()
        return Seconds(sent[str(case)]["seconds"])

    for case in cases:
        yield Case(
            f"{backbone}, {batch_size} images of {size} pixels; {case}",
            lambda case=case: run(case),  # type: ignore[misc]
            lambda: run(DDP),
            note=lambda case=case: traffic(sent[case]),  # type: ignore[misc]
        )
    for queue in asked:
        queue.put(None)
    for process in ranks:
        process.join()


def traffic(found: dict[str, Any]) -> str:
    calls = ", ".join(f"{count:.4g} {name}" for name, count in found["calls"].items())
    return f"{found['bytes'] / 2**20:.2f} MiB in {calls}"


if __name__ == "__main__":
    main(__doc__, distributed_step)
