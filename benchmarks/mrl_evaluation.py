"""Time of evaluating nested embeddings at nine dimensions from one pass, against one backbone pass per dimension.

The baseline is the published way: for each dimension the network runs over the data again, and top-1, top-5
and mAP@10 are read off the sorted logits. Ours runs once, with channels-last convolutions, and reads all from
the rank of the true class. Both give the same numbers, which is checked.

    python benchmarks/mrl_evaluation.py [--threads 2] [--device cpu] [--backbone resnet50] [--size 96]
    [--images 128]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from wasskit.data.loaders import Batch
from wasskit.plugins.mrl.loss import normalise
from wasskit.plugins.mrl.network import MrlModel, build_model
from wasskit.plugins.mrl.task import classification_metrics

CLASSES = 100


def published(model: MrlModel, batches: list[Batch]) -> dict[str, float]:
    """One pass over the data for each dimension; metrics from sorted logits."""
    metrics = {}
    for d in model.dims:
        weight, bias = model.objective.classifiers.weight_at(d)
        counts, samples = torch.zeros(3, dtype=torch.float64), 0
        for batch in batches:
            with torch.no_grad():
                logits = nn.functional.linear(normalise(model.network(batch.images))[:, :d], weight, bias)
            order = logits.argsort(dim=1, descending=True)
            place = (order == batch.labels[:, None]).float().argmax(1).cpu() + 1
            reciprocal = torch.where(place <= 10, 1 / place, 0.0)
            counts += torch.stack([(place == 1).sum(), (place <= 5).sum(), reciprocal.sum()])
            samples += len(batch)
        for name, value in zip(("top1", "top5", "map10"), (100 * counts / samples).tolist(), strict=True):
            metrics[f"{name}@{d}"] = value
    return metrics


class Batches:
    """A loader whose batches are there already: what is timed is the evaluation alone."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def seconds(function: Callable[[], dict[str, float]], device: str) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    metrics = function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began, metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build_model(
        {
            "backbone": options.backbone, "stem": "standard", "embedding": "linear", "dims": None,
            "tied": False, "classes": [str(c) for c in range(CLASSES)], "image_size": options.size,
            "channels": 3,
        }
    )  # fmt: skip
    model.network.to(options.device).eval()
    model.objective.to(options.device)

    def images(count: int) -> Tensor:
        return torch.randn(count, 3, options.size, options.size, device=options.device)

    batches = []
    for start in range(0, options.images, options.batch):
        count = min(options.batch, options.images - start)
        labels = torch.randint(0, CLASSES, (count,), device=options.device)
        batches.append(Batch(images(count), labels, torch.arange(start, start + count)))

    times: dict[str, list[float]] = {"published": [], "ours": []}
    for _ in range(options.repeats):  # taking turns, so that a busy moment hits both alike
        model.network.to(memory_format=torch.contiguous_format)
        taken, theirs = seconds(lambda: published(model, batches), options.device)
        times["published"].append(taken)
        model.network.to(memory_format=torch.channels_last)
        taken, ours = seconds(lambda: classification_metrics(model, Batches(batches)), options.device)
        times["ours"].append(taken)
    for name, value in theirs.items():
        # Random logits: the two memory formats may swap a pair that rounding cannot tell apart.
        assert abs(ours[name] - value) <= 200 / options.images, (name, ours[name], value)
    slow, fast = min(times["published"]), min(times["ours"])
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads: {options.backbone}, "
        f"{options.images} images of {options.size}, {len(model.dims)} dimensions: a pass per dimension "
        f"{slow:.2f} s, one pass {fast:.2f} s, {slow / fast:.1f}x"
    )


if __name__ == "__main__":
    main()
