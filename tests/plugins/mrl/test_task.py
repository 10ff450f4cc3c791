"""The task: the published schedule and metrics, and two ranks against one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.distributed.harness import run_ranks
from wasskit.data.loaders import EvalLoader
from wasskit.data.registry import load_dataset
from wasskit.evaluation.accuracy import RankCounts
from wasskit.plugins.mrl.evaluation import rank_metrics
from wasskit.plugins.mrl.network import build_model
from wasskit.plugins.mrl.task import classification_metrics, published_schedule
from wasskit.training.task import Plan

References = Callable[[str], dict[str, Any]]


def test_published_schedule(reference: References) -> None:
    """Cosine from lr to lr / 100, one step per epoch, to 1e-10."""
    ref = reference("mwrl_schedule")
    epochs, steps = int(ref["epochs"]), 7
    schedule = published_schedule(Plan(epochs * steps, steps))
    for epoch, expected in enumerate(ref["lr"]):
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert float(ref["lr0"]) * schedule(step) == pytest.approx(expected, rel=1e-10)


def test_warm_up_comes_first() -> None:
    schedule = published_schedule(Plan(100, 10), warmup_epochs=2)
    assert [schedule(step) for step in (0, 10, 20)] == pytest.approx([0.0, 0.5, 1.0])
    assert published_schedule(Plan(10, 10), warmup_epochs=5)(5) == pytest.approx(0.5)


def test_published_metrics(reference: References) -> None:
    """Per dimension and averaged, from batches of unequal size, to 1e-10."""
    ref = reference("mwrl_metrics")
    dims = ref["val_dims"].tolist()
    counts = RankCounts((len(dims),))
    logits, targets = torch.tensor(ref["val_logits"]), torch.tensor(ref["val_targets"])
    for batch, labels in zip(
        logits.split(ref["val_batches"].tolist(), dim=1), targets.split(ref["val_batches"].tolist()), strict=True
    ):
        counts.update(batch, labels)
    metrics = rank_metrics(counts, dims)
    for d, row in zip(dims, ref["val_result"], strict=True):
        assert [metrics[f"{name}@{d}"] for name in ("top1", "top5", "map10")] == pytest.approx(row, rel=1e-10)
    averages = [metrics[name] for name in ("top1", "top5", "map10")]
    assert averages == pytest.approx(ref["val_average"], rel=1e-10)


def evaluate_on_ranks() -> dict[str, float]:
    torch.manual_seed(0)
    dataset = load_dataset("digits", "test").subset(range(61))
    model = build_model(
        {
            "backbone": "tiny", "stem": "auto", "embedding": "linear", "dims": [2, 8, 32], "tied": False,
            "classes": list(dataset.classes), "image_size": 8, "channels": 1,
        }
    )  # fmt: skip
    return classification_metrics(model, EvalLoader(dataset, 16))


@pytest.mark.distributed
def test_evaluation_on_two_ranks_counts_every_image_once() -> None:
    expected = evaluate_on_ranks()
    for found in run_ranks(evaluate_on_ranks, 2):
        assert found == expected
