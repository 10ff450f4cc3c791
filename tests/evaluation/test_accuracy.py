"""Ranks of the true class, and the accuracies that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wasskit.errors import UserError
from wasskit.evaluation.accuracy import RankCounts, class_map_at_k, class_ranks, topk_accuracy

Reference = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("case", [0, 1])
def test_published_top1_top5_and_map(reference: Reference, case: int) -> None:
    arrays = reference("mwrl_metrics")
    logits = torch.from_numpy(arrays[f"logits_{case}"]).double()
    labels = torch.from_numpy(arrays[f"targets_{case}"])
    top1, top5, class_map = arrays[f"result_{case}"]

    assert round(float(topk_accuracy(logits, labels)) * len(labels)) == top1
    assert round(float(topk_accuracy(logits, labels, k=5)) * len(labels)) == top5
    assert float(class_map_at_k(logits, labels)) == pytest.approx(class_map, rel=1e-10)


def test_published_validation_of_three_heads_in_batches(reference: Reference) -> None:
    arrays = reference("mwrl_metrics")
    logits = torch.from_numpy(arrays["val_logits"])
    labels = torch.from_numpy(arrays["val_targets"])

    counts = RankCounts((3,))
    start = 0
    for size in arrays["val_batches"].tolist():
        counts.update(logits[:, start : start + size], labels[start : start + size])
        start += size

    result = 100 * torch.stack([counts.topk(1), counts.topk(5), counts.class_map(10)], dim=1)
    torch.testing.assert_close(result, torch.from_numpy(arrays["val_result"]), rtol=1e-10, atol=0)
    torch.testing.assert_close(result.mean(0), torch.from_numpy(arrays["val_average"]), rtol=1e-10, atol=0)
    assert counts.samples == 81


def test_ranks_are_positions_in_the_sorted_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, 20, generator=generator)
    labels = torch.randint(0, 20, (50,), generator=generator)
    order = logits.argsort(dim=-1, descending=True)
    positions = (order == labels[None, :, None]).int().argmax(-1) + 1
    assert torch.equal(class_ranks(logits, labels), positions)


def test_ties_count_for_the_true_class_and_nan_against_it() -> None:
    nan = float("nan")
    logits = torch.tensor([[1.0, 1.0, 0.0], [nan, 1.0, 0.0], [nan, nan, nan], [0.0, 1.0, nan]])
    assert class_ranks(logits, torch.tensor([1, 0, 1, 1])).tolist() == [1, 4, 4, 2]


def test_counts_equal_the_functions_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(37, 15, generator=generator)
    labels = torch.randint(0, 15, (37,), generator=generator)
    counts = RankCounts(depth=12)
    for rows in torch.arange(37).split(10):
        counts.update(logits[rows], labels[rows])
    for k in (1, 5, 12):
        torch.testing.assert_close(counts.topk(k), topk_accuracy(logits, labels, k), rtol=1e-14, atol=0)
        torch.testing.assert_close(counts.class_map(k), class_map_at_k(logits, labels, k), rtol=1e-14, atol=0)


def test_map_at_1_is_top_1_and_fewer_classes_than_k_are_allowed() -> None:
    logits, labels = torch.eye(3)[[0, 1, 1, 2]] + torch.arange(3) / 10, torch.tensor([0, 1, 2, 2])
    assert class_map_at_k(logits, labels, k=1) == topk_accuracy(logits, labels, k=1) == 0.75
    assert float(class_map_at_k(logits, labels, k=10)) == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)


def test_wrong_requests() -> None:
    with pytest.raises(ValueError, match=r"\(N,\) expected"):
        class_ranks(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="ranks 1 to 10"):
        RankCounts().topk(11)
    with pytest.raises(UserError, match="no samples"):
        RankCounts().topk(1)
    logits = torch.zeros(3, 4)
    for labels, message in (
        ([0, 4, 1], "between 0 and 3, as there are 4 logits, but they range from 0 to 4"),
        ([0, -1, 1], "but they range from -1 to 1"),
    ):
        for measure in (class_ranks, topk_accuracy, class_map_at_k):
            with pytest.raises(ValueError, match=message):
                measure(logits, torch.tensor(labels))
    for measure in (topk_accuracy, class_map_at_k):
        with pytest.raises(ValueError, match="k must be at least 1, not 0"):
            measure(logits, torch.zeros(3, dtype=torch.int64), 0)
        with pytest.raises(ValueError, match=r"integers, not torch.bool"):
            measure(logits, torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_do(dtype: torch.dtype) -> None:
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 4
    assert torch.equal(class_ranks(logits, labels.to(dtype)), class_ranks(logits, labels))
    with pytest.raises(ValueError, match="labels must be integers"):
        class_ranks(logits, labels.float())
