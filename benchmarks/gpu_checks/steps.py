"""Steps of the four methods at real sizes, with and without CUDA graphs and compiling, against the roofline."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_checks.bench import Bench, Case, Finding, counted_waits
from benchmarks.gpu_checks.machine import Roofline
from wasskit.config import changed
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import Batch, TrainLoader
from wasskit.data.views import ViewDistribution, random_views
from wasskit.plugins.metrix.commands.train import MetrixTrain
from wasskit.plugins.metrix.network import build_model as build_metric_model
from wasskit.plugins.metrix.task import MetrixTask
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.network import build_model
from wasskit.plugins.mrl.task import MatryoshkaTask
from wasskit.plugins.ssl.commands.byol import Byol
from wasskit.plugins.ssl.network import build_encoder, describe
from wasskit.plugins.ssl.tasks import ByolTask, Parts
from wasskit.plugins.w2gn.core.task import Pair, TransportTask
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import StepOptions
from wasskit.training.cadence import Cadence
from wasskit.training.stepper import Updates
from wasskit.training.task import Source, StepSource, Task
from wasskit.training.trainer import Trainer

__all__ = ["cases", "compiled_cases"]

Made = tuple[Task, Source, int]
"""A task, its batches, and the samples in one."""


@dataclass(frozen=True)
class Step:
    """A step to be timed.

    Args:
        limit: how many times the roofline it may take on a GPU; None: a launch-bound form, which only is compared.
        updates, trainer: settings of the training.
        than: the form that it is to be faster than.
    """

    name: str
    make: Callable[[Bench], Made]
    limit: float | None
    updates: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    than: str | None = None


HALF: dict[str, Any] = {"precision": "bf16"}
LAST: dict[str, Any] = {"channels_last": True}


def cases(bench: Bench) -> Iterator[Case]:
    """The four methods as they are run by default."""
    steps = [
        Step("mrl", _mrl, 4.0, {**HALF, "clip_norm": 1.0}, LAST),
        Step("ssl", _ssl, 4.0, HALF, LAST),
        Step("metrix", _metrix, 4.0, {**HALF, "clip_value": 10.0}, LAST),
        Step("w2gn", _w2gn, None),
        Step("w2gn-graph", _w2gn, 4.0, {"cuda_graph": True}, than="w2gn"),
    ]
    for step in steps:
        yield step.name, partial(_time, bench, step)


def compiled_cases(bench: Bench) -> Iterator[Case]:
    """The same compiled, which takes most of the time that it is given."""
    steps = [
        Step("w2gn-compiled", partial(_w2gn, mode="reduce-overhead"), 4.0, than="w2gn"),
        Step("mrl-compiled", _mrl, 4.0, {**HALF, "clip_norm": 1.0}, {**LAST, "compile": True}, than="mrl"),
        Step("ssl-compiled", _ssl, 4.0, HALF, {**LAST, "compile": True}, than="ssl"),
        Step("metrix-compiled", _metrix, 4.0, HALF, {**LAST, "compile": True}, than="metrix"),
    ]
    for step in steps[:1] if bench.dry else steps:
        yield step.name, partial(_time, bench, step)


class _Training:
    """A training that is called for its next step."""

    def __init__(self, bench: Bench, step: Step) -> None:
        task, source, self.samples = step.make(bench)
        self.trainer = Trainer(
            task, source, cadence=Cadence(steps=10**6, eval_every=0), updates=Updates(**step.updates),
            device=bench.device, **step.trainer,
        )  # fmt: skip
        self.loop = self.trainer.loop
        self.loop.task.train()
        self.loop.task.start_epoch(self.loop.progress)
        self.batches: Iterator[Any] = iter(())

    def __call__(self) -> None:
        if self.loop.state.batch == 0:
            self.batches = self.loop.source.batches(self.loop.state.epoch)
        self.loop._update(self.batches)


def _time(bench: Bench, step: Step) -> Finding:
    bench.synchronize()
    if bench.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True  # as a session has it
    try:
        training = _Training(bench, step)
        # Of the first form: fused and recorded operations are not seen one by one.
        roofline = bench.facts.get(f"roofline {step.than}") or _roofline(bench, training)
        seconds = bench.seconds_per_call(training, 1 if bench.dry else 20, warm=1 if bench.dry else 6)
        waits = _waits(bench, training)
        about = _profiled(bench, training, seconds) if bench.is_cuda else ""
    finally:
        torch.backends.cudnn.benchmark = benchmark
    bench.facts[f"roofline {step.name}"], bench.facts[f"seconds {step.name}"] = roofline, seconds
    words = f"{1e3 * seconds:.2f} ms, {training.samples / seconds:.0f} samples/s, roofline {1e3 * roofline:.2f} ms"
    words += f" ({100 * roofline / seconds:.0f} %), {waits} waits{about}"
    if not bench.is_cuda:
        return Finding(seconds > 0, words, "a time")
    expected, passed = "no waits", not waits
    if step.limit is not None:
        expected += f", at most {step.limit:g} times the roofline"
        passed &= seconds <= step.limit * roofline
    before = bench.facts.get(f"seconds {step.than}")
    if before is not None:
        expected += f", faster than {step.than} with its {1e3 * before:.2f} ms"
        passed &= seconds < before
    return Finding(passed, words, expected)


def _roofline(bench: Bench, training: _Training) -> float:
    training()  # what is made once
    roofline = Roofline(bench.facts["peaks"])
    with roofline:
        training()
    return roofline.seconds


def _waits(bench: Bench, training: _Training, steps: int = 3) -> int:
    """Of the host in a steady step, the median: the first step of an epoch may have more."""
    found = []
    for _ in range(steps):
        with counted_waits(bench) as waits:
            training()
        found.append(len(waits))
    return statistics.median_low(found)


def _profiled(bench: Bench, training: _Training, seconds: float, steps: int = 3) -> str:
    """How long the device works in a step, in how many kernels, and the peak of its memory."""
    peak = torch.cuda.max_memory_allocated(bench.device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            training()
        bench.synchronize()
    # Named ranges, as of an optimiser's step, span kernels that are there themselves.
    events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    events = [event for event in events if not getattr(event, "is_user_annotation", False)]
    busy = sum(event.time_range.elapsed_us() for event in events) / steps / 1e6
    return f", busy {100 * busy / seconds:.0f} % in {len(events) // steps} kernels, {peak / 2**30:.2f} GiB"


# --- Tasks ----------------------------------------------------------------------------------------------------------


def _images(bench: Bench, count: int, classes: int, size: int) -> StepSource:
    labels = torch.arange(count) % classes
    indices = torch.arange(count, device=bench.device)
    images = torch.randn(count, 3, size, size, device=bench.device)
    batch = Batch(images, labels.to(bench.device), indices, labels)
    return StepSource(lambda number: batch, batch_size=count)


def _description(bench: Bench, classes: int, **more: Any) -> dict[str, Any]:
    backbone, size = ("tiny", 8) if bench.dry else ("resnet50", 224)
    named = [str(label) for label in range(classes)]
    return {"backbone": backbone, "image_size": size, "channels": 3, "stem": "auto", "classes": named, **more}


def _mrl(bench: Bench) -> Made:
    """ResNet-50 at 224 pixels, 128 images, nine nested dimensions."""
    count, classes = (8, 4) if bench.dry else (128, 100)
    description = _description(bench, classes, dims=None, embedding="linear", tied=False)
    task = MatryoshkaTask(build_model(description), MrlTrain(), [])
    return task, _images(bench, count, classes, description["image_size"]), count


def _metrix(bench: Bench) -> Made:
    """ResNet-50 at 224 pixels, 100 images of 25 classes, mixed features."""
    count, classes = (12, 4) if bench.dry else (100, 25)
    config = changed(MetrixTrain(), mode="feature", loss="multisimilarity")
    description = _description(bench, classes, pooling="avgmax", embedding_size=16 if bench.dry else 512)
    task = MetrixTask(build_metric_model(description), config, {})
    return task, _images(bench, count, classes, description["image_size"]), count


def _ssl(bench: Bench) -> Made:
    """BYOL with W2: ResNet-18 for CIFAR, 256 images in two views that are made on the device."""
    count, size = (16, 8) if bench.dry else (256, 32)
    pixels = torch.randint(0, 256, (4 * count, 3, size, size), dtype=torch.uint8)
    dataset = ImageDataset("pixels", "train", ["a"], labels=torch.zeros(4 * count, dtype=torch.long), images=pixels)
    config = changed(
        Byol(), w2=True, batch_size=count, backbone="tiny" if bench.dry else "resnet18",
        projector=(16, 8) if bench.dry else (2048, 2048, 256), stem="auto" if bench.dry else "small-pad2",
    )  # fmt: skip
    description = describe(config, "byol", dataset)
    parts = Parts(build_encoder(description), config, description)
    task = ByolTask(parts, predictor=description["projector"][0], momentum=0.99)
    views = random_views(dataset, ViewDistribution(), ViewDistribution())
    return task, TrainLoader(dataset, count, views, device=bench.device), count


def _w2gn(bench: Bench, mode: str | None = None) -> Made:
    """Two dense potentials of 64 dimensions, 1024 points of either measure, solved conjugates."""
    count, dim = (32, 4) if bench.dry else (1024, 64)
    hidden = (16, 8) if bench.dry else (128, 128, 64)
    transport = W2GN.dense(dim, hidden=hidden, start="identity")
    if mode is not None:
        how = {"backend": "aot_eager"} if bench.dry else {"mode": mode}  # a dry run has no time for a compiler
        transport.compile(**how)
    draw = torch.Generator().manual_seed(0)
    x, y = (scale * torch.randn(count, dim, generator=draw).to(bench.device) for scale in (1.0, 2.0))
    task = TransportTask(transport, changed(StepOptions(), batch_size=count), lambda maps: {})
    return task, StepSource(lambda number: Pair(x, y), batch_size=count), count
