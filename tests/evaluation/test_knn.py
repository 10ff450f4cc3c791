"""k-NN: published numbers, a plain loop, chunks, ties."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation import ties
from wasskit.evaluation.knn import knn_accuracy, knn_ranks
from wasskit.evaluation.retrieval import UNRANKED, nearest


@pytest.mark.parametrize("case", ["ssl_knn_0", "ssl_knn_1"])
def test_published_accuracies(reference: Callable[[str], dict[str, Any]], case: str) -> None:
    arrays = reference(case)
    train, train_labels = torch.from_numpy(arrays["train_x"]), torch.from_numpy(arrays["train_y"])
    test, test_labels = torch.from_numpy(arrays["query_x"]), torch.from_numpy(arrays["query_y"])
    top1, top5 = 100 * knn_accuracy(train, train_labels, test, test_labels, k=int(arrays["k"]), topk=(1, 5))
    assert float(top1) == pytest.approx(float(arrays["acc1"]), rel=1e-12)
    assert float(top5) == pytest.approx(float(arrays["acc5"]), rel=1e-12)


def blobs(samples: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    return torch.eye(classes, 6)[labels] + 0.7 * torch.randn(samples, 6, generator=generator), labels


@pytest.mark.parametrize(("weights", "temperature"), [("exp", None), ("exp", 0.07), ("uniform", None)])
def test_a_plain_loop_over_neighbours(weights: Any, temperature: float | None) -> None:
    (train, train_labels), (test, test_labels) = blobs(90), blobs(40, seed=1)
    hits = 0
    for query, label in zip(test, test_labels, strict=True):
        cosine = torch.cosine_similarity(query[None], train)
        votes: dict[int, float] = defaultdict(float)
        near: dict[int, float] = defaultdict(float)
        for i in cosine.argsort(descending=True)[:15].tolist():
            votes[int(train_labels[i])] += 1.0 if weights == "uniform" else math.exp(cosine[i] / (temperature or 1))
            near[int(train_labels[i])] += float(cosine[i])
        hits += max(votes, key=lambda c: (round(votes[c], 4), near[c])) == int(label)
    accuracy = knn_accuracy(train, train_labels, test, test_labels, 15, temperature, weights)
    assert float(accuracy) == pytest.approx(hits / 40, rel=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, train_labels), (test, test_labels) = blobs(101), blobs(33, seed=1)
    whole = nearest(test, 20, gallery=train)
    ranks = knn_ranks(train, train_labels, test, test_labels, k=20)
    monkeypatch.setattr(ties, "BUDGET", 7 * 101 * 4)  # blocks of seven queries
    similarities, indices = nearest(test, 20, gallery=train)
    torch.testing.assert_close(similarities, whole[0])
    assert torch.equal(indices, whole[1])
    assert torch.equal(knn_ranks(train, train_labels, test, test_labels, k=20), ranks)


def test_lengths_do_not_matter_and_half_precision_is_taken() -> None:
    (train, train_labels), (test, test_labels) = blobs(60), blobs(30, seed=1)
    expected = knn_accuracy(train, train_labels, test, test_labels, k=9)
    scales = torch.linspace(0.1, 50, 60)[:, None]
    assert knn_accuracy(train * scales, train_labels, test * 1e-3, test_labels, k=9) == expected
    assert 0.5 < knn_accuracy(train.bfloat16(), train_labels, test.bfloat16(), test_labels, k=9) <= 1


def test_a_low_temperature_is_the_single_nearest_neighbour() -> None:
    (train, train_labels), (test, test_labels) = blobs(60), blobs(30, seed=1)
    nearest = knn_accuracy(train, train_labels, test, test_labels, k=1)
    assert knn_accuracy(train, train_labels, test, test_labels, k=50, temperature=1e-4) == nearest


def test_ties_and_classes_without_votes() -> None:
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    labels = torch.tensor([2, 1, 0])
    query = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    ranks = knn_ranks(train, labels, query, torch.tensor([2, 1, 0, 3]), k=2, weights="uniform")
    assert ranks.tolist() == [1, 2, UNRANKED, UNRANKED]
    same = torch.ones(3, 2)
    assert knn_ranks(same, labels, query, torch.tensor([0, 1, 2, 3]), k=3).tolist() == [1, 2, 3, UNRANKED]
    # The second vote is exp(-400) = 0, and negative its similarity; the eight classes without a vote stay behind.
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert knn_ranks(apart, torch.tensor([9, 3]), query[:1], torch.tensor([3]), k=2, temperature=0.005).tolist() == [2]


def test_a_class_without_a_vote_never_counts() -> None:
    """Not among the first t either where there are fewer than t classes, whatever the test samples of one call."""
    train, labels, query = torch.eye(2), torch.tensor([0, 1]), torch.tensor([[1.0, 0.0]])
    topk = (1, 2, 3, 5)
    assert knn_accuracy(train, labels, query, torch.tensor([1]), k=1, topk=topk).tolist() == [0, 0, 0, 0]
    both = knn_accuracy(train, labels, query.expand(2, 2), torch.tensor([1, 4]), k=1, topk=topk)
    assert both.tolist() == [0, 0, 0, 0]


def test_labels_may_be_any_numbers() -> None:
    (train, train_labels), (test, test_labels) = blobs(60), blobs(30, seed=1)
    expected = knn_accuracy(train, train_labels, test, test_labels, k=9, topk=(1, 2))
    apart = knn_accuracy(train, train_labels * 10**15, test, test_labels * 10**15, k=9, topk=(1, 2))
    assert torch.equal(apart, expected)


def test_float64_features_keep_their_digits() -> None:
    """Cosines of 1 - 5e-11 and 1 - 5e-10 are both 1 in float32, and 1e100 is infinite."""
    train = torch.tensor([[1.0, 1e-5], [1.0, -1e-5]], dtype=torch.float64)
    test = torch.tensor([[1.0, 2e-5], [1.0, -2e-5]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    assert knn_accuracy(train, labels, test, labels, k=1) == 1
    large = torch.eye(2, dtype=torch.float64) * 1e100
    assert knn_accuracy(large, labels, large, labels, k=1) == 1


def test_wrong_requests() -> None:
    train, labels = blobs(10)
    with pytest.raises(UserError, match="11 neighbours among 10"):
        knn_accuracy(train, labels, train, labels, k=11)
    with pytest.raises(UserError, match="1 to 10"):
        knn_accuracy(train, labels, train, labels, k=0)
    with pytest.raises(UserError, match="one width"):
        knn_accuracy(train, labels, train[:, :3], labels, k=1)
    with pytest.raises(UserError, match="a label per sample"):
        knn_accuracy(train, labels[:-1], train, labels, k=1)
    with pytest.raises(UserError, match="some samples have none"):
        knn_accuracy(train, labels - 1, train, labels, k=1)
    with pytest.raises(UserError, match="positive"):
        knn_accuracy(train, labels, train, labels, k=1, temperature=0.0)
    with pytest.raises(UserError, match="at least one test sample"):
        knn_accuracy(train, labels, train[:0], labels[:0], k=1)


def test_features_and_labels_that_mean_nothing_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(12, 3, generator=generator), torch.randn(5, 3, generator=generator)
    labels, answers = torch.arange(12) % 3, torch.arange(5) % 3
    expected = knn_accuracy(bank, labels, queries, answers, 4)
    assert knn_accuracy(bank, labels.to(torch.uint8), queries, answers.short(), 4) == expected
    with pytest.raises(UserError, match="NaN or infinite"):
        knn_accuracy(bank, labels, queries * torch.nan, answers, 4)
    with pytest.raises(UserError, match="NaN or infinite"):
        knn_accuracy(bank / 0, labels, queries, answers, 4)
    with pytest.raises(UserError, match="labels are integers"):
        knn_accuracy(bank, labels.float(), queries, answers, 4)
    with pytest.raises(UserError, match=r"features of shape \(N, D\)"):
        knn_accuracy(bank[:, 0], labels, queries[:, 0], answers, 4)
    with pytest.raises(UserError, match=r"features of shape \(N, D\)"):
        knn_accuracy(bank[0], labels, queries, answers, 4)
    with pytest.raises(UserError, match=r"1.5 neighbours among 12"):
        knn_accuracy(bank, labels, queries, answers, 1.5)  # type: ignore[arg-type]
    for topk in ((), (0,)):
        with pytest.raises(UserError, match="topk cannot be"):
            knn_accuracy(bank, labels, queries, answers, 4, topk=topk)
