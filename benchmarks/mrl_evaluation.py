"""Time of evaluating nested embeddings at nine dimensions from one pass, against one backbone pass per dimension.

The baseline is the published way: for each dimension the network runs over the data again, and top-1, top-5
and mAP@10 are read off the sorted logits. Ours runs once, with channels-last convolutions, and reads all from
the rank of the true class. Both give the same numbers, which is checked.

    python benchmarks/mrl_evaluation.py [--threads 2] [--device cpu] [--backbone resnet50] [--size 96]
        [--images 128] [--batch 64]
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
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


@benchmark(
    "nine dimensions of one network evaluated",
    plain="a pass of the network for each dimension",
    floor="one pass of the network",
    quick={"backbone": "resnet18", "size": 32, "images": 8, "batch": 8},
    full={"images": 64},
)
def mrl_evaluation(
    *, backbone: str = "resnet50", size: int = 96, images: int = 128, batch: int = 64, device: str = "cpu"
) -> Iterator[Case]:
    torch.manual_seed(0)
    description = {
        "backbone": backbone, "stem": "standard", "embedding": "linear", "dims": None, "tied": False,
        "classes": [str(c) for c in range(CLASSES)], "image_size": size, "channels": 3,
    }  # fmt: skip
    plain = build_model(description)
    plain.network.to(device).eval()
    plain.objective.to(device)
    ours = copy.deepcopy(plain)
    ours.network.to(memory_format=torch.channels_last)
    batches = []
    for start in range(0, images, batch):
        count = min(batch, images - start)
        pixels = torch.randn(count, 3, size, size, device=device)
        labels = torch.randint(0, CLASSES, (count,), device=device)
        batches.append(Batch(pixels, labels, torch.arange(start, start + count)))

    def agree(mine: dict[str, float], theirs: dict[str, float]) -> None:
        for name, value in theirs.items():
            # Random logits: the two memory formats may swap a pair that rounding cannot tell apart.
            assert abs(mine[name] - value) <= 200 / images, (name, mine[name], value)

    @torch.no_grad()
    def one_pass() -> None:
        for part in batches:
            ours.network(part.images.contiguous(memory_format=torch.channels_last))

    yield Case(
        f"{backbone}, {images} images of {size} pixels",
        lambda: classification_metrics(ours, Batches(batches)),
        lambda: published(plain, batches),
        floor=one_pass,
        agree=agree,
    )


if __name__ == "__main__":
    main(__doc__, mrl_evaluation)
