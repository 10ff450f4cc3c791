"""What two ranks send each other in a training step: calls, bytes and time, over gloo on this machine.

Counts the collectives of ``torch.distributed`` in steady steps (no log, evaluation or checkpoint among them) of a
residual network on random images, with its batch norms local or synchronised, and with a loss of the whole batch. Bytes
are those of the tensors that a rank puts in. The reference trains the same network in the same processes by torch's
``DistributedDataParallel``.

    python benchmarks/distributed_step.py [--backbone resnet18] [--batch-size 32] [--size 32] [--steps 8] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.distributed.collectives import gather_with_grad
from wasskit.distributed.group import init_group, rank, world_size
from wasskit.distributed.norm import convert_sync_batchnorm
from wasskit.models.backbones import build_backbone
from wasskit.training.cadence import Cadence
from wasskit.training.stepper import Updates
from wasskit.training.task import Losses, Optimisation, Plan, Progress, StepSource, Task
from wasskit.training.trainer import Trainer

COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "barrier")
CASES = ("local batch norm", "synchronised", "whole batch", "accumulate 2", "torch's DDP")


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


def measure(case: str, arguments: argparse.Namespace, counter: Counter) -> dict[str, Any]:
    """Calls, bytes and seconds of an update of one rank."""
    images = torch.randn(arguments.batch_size // world_size(), 3, arguments.size, arguments.size)
    batch = images, torch.arange(len(images)) % 10
    each, warm = 2 if case == "accumulate 2" else 1, 4
    counter.calls, counter.bytes = {}, 0
    task = Classifier(arguments.backbone, arguments.size, case)
    if case == "torch's DDP":
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


def run_rank(place: int, port: int, arguments: argparse.Namespace, results: Any) -> None:
    os.environ.update(
        RANK=str(place), WORLD_SIZE="2", LOCAL_RANK=str(place), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    init_group("cpu")
    counter = Counter()
    found = {case: measure(case, arguments, counter) for case in CASES}
    if rank() == 0:
        results.put(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=run_rank, args=(place, port, arguments, results)) for place in range(2)]
    for process in ranks:
        process.start()
    found = results.get()
    for process in ranks:
        process.join()
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{arguments.backbone}, {arguments.batch_size} images of {arguments.size} pixels, 2 ranks, per update")
    for case, one in found.items():
        calls = ", ".join(f"{count:.4g} {name}" for name, count in one.get("calls", {}).items())
        size = f"{one['bytes'] / 2**20:8.2f} MiB" if "bytes" in one else " " * 12
        print(f"{case:18}{size}  {1000 * one['seconds']:8.1f} ms  {calls}")


if __name__ == "__main__":
    main()
