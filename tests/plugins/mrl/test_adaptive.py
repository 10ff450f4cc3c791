"""Adaptive retrieval and cascades: against exact search, by hand, and at their limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wasskit.evaluation.retrieval import retrieval_metrics
from wasskit.plugins.mrl.adaptive import (
    SearchStrategy,
    adaptive_strategies,
    cascade_outcome,
    classifier_outcomes,
    funnel_strategies,
    occurring_thresholds,
    retrieval_outcome,
    retrieve,
    single_shots,
)

DIMS = (2, 4, 8, 16)


@pytest.fixture
def clouds() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and gallery of five overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 16, generator=generator)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 5, (n,), generator=generator)
        return centres[labels] + 1.5 * torch.randn(n, 16, generator=generator), labels

    queries, query_labels = draw(300)
    gallery, gallery_labels = draw(120)
    return queries, query_labels, gallery, gallery_labels


@pytest.mark.parametrize("dim", DIMS)
def test_single_shot_equals_exact_retrieval(clouds: tuple[Tensor, ...], dim: int) -> None:
    queries, labels, gallery, gallery_labels = clouds
    outcome = retrieval_outcome(queries, labels, gallery, gallery_labels, SearchStrategy("single shot", ((dim, 120),)))
    expected = retrieval_metrics(
        queries[:, :dim], labels, gallery=gallery[:, :dim], gallery_labels=gallery_labels,
        recall=(1,), map_k=(10,), map_r=False,
    )  # fmt: skip
    assert outcome.metrics["precision1"] == pytest.approx(100 * expected["precision@1"])
    assert outcome.metrics["map10"] == pytest.approx(100 * expected["map@10"], rel=1e-6)
    assert outcome.operations == dim * 120


def test_a_shortlist_of_everything_is_exact(clouds: tuple[Tensor, ...]) -> None:
    queries, _, gallery, _ = clouds
    exact = retrieve(queries, gallery, SearchStrategy("", ((16, 120),)))
    assert torch.equal(retrieve(queries, gallery, SearchStrategy("", ((2, 120), (16, 120)))), exact)
    assert torch.equal(retrieve(queries, gallery, SearchStrategy("", ((2, 120), (4, 120), (16, 120)))), exact)


def test_searches_are_shared_between_plans(clouds: tuple[Tensor, ...]) -> None:
    queries, _, gallery, _ = clouds
    searched: dict[int, Tensor] = {}
    for strategy in (*funnel_strategies(DIMS, 120, 40), *adaptive_strategies(DIMS, 120, 40), *single_shots(DIMS, 120)):
        alone = retrieve(queries, gallery, strategy)
        assert torch.equal(retrieve(queries, gallery, strategy, searched=searched), alone)
    assert sorted(searched) == list(DIMS)


def test_reranking_orders_the_shortlist_by_the_longer_prefix(clouds: tuple[Tensor, ...]) -> None:
    queries, _, gallery, _ = clouds
    found = retrieve(queries, gallery, SearchStrategy("", ((2, 120), (16, 20))))
    short = torch.nn.functional.cosine_similarity(queries[:, None, :2], gallery[None, :, :2], dim=2)
    full = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2)
    kept = short.topk(20, dim=1).indices
    expected = kept.gather(1, full.gather(1, kept).topk(10, dim=1).indices)
    assert torch.equal(found, expected)


def test_plans_cost_what_they_say() -> None:
    assert [strategy.operations for strategy in single_shots(DIMS, 1000)] == [2000, 4000, 8000, 16000]
    assert [strategy.operations for strategy in adaptive_strategies(DIMS, 1000, 100)] == [3600, 5600, 9600]
    funnels = funnel_strategies(DIMS, 1000, 40)
    assert funnels[0].stages == ((2, 1000), (4, 40), (8, 20), (16, 10))
    assert funnels[0].operations == 2000 + 160 + 160 + 160
    assert funnels[1].text == "4 > 8 > 16"
    assert len(funnels) == 2


def test_lists_never_exceed_a_small_gallery() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(4, 16, generator=generator), torch.randn(6, 16, generator=generator)
    for strategy in (*adaptive_strategies(DIMS, 6, 200), *funnel_strategies(DIMS, 6, 200)):
        found = retrieve(queries, gallery, strategy)
        assert found.shape == (4, 6)
        assert torch.equal(found.sort(dim=1).values, torch.arange(6).expand(4, 6))


def test_cascade_by_hand() -> None:
    """Three classifiers, two classes: the first sample is certain at once, the second at the second, the third
    never."""
    logits = torch.tensor(
        [
            [[5.0, 0.0], [0.1, 0.0], [0.0, 0.1]],
            [[0.0, 5.0], [0.0, 5.0], [0.1, 0.0]],
            [[0.0, 5.0], [5.0, 0.0], [0.2, 0.0]],
        ]
    )
    labels = torch.tensor([0, 1, 0])
    outcome = cascade_outcome(logits, labels, (2, 4, 8), 0.9, tied=False)
    assert outcome.metrics["top1"] == pytest.approx(100)
    assert outcome.metrics["mean_dim"] == pytest.approx((2 + 4 + 8) / 3)
    assert outcome.operations == pytest.approx(2 * (2 + 6 + 14) / 3)
    assert outcome.metrics["share@4"] == pytest.approx(100 / 3)
    tied = cascade_outcome(logits, labels, (2, 4, 8), 0.9, tied=True)
    assert tied.operations == pytest.approx(2 * (2 + 4 + 8) / 3)


def test_thresholds_lie_where_the_classifiers_probabilities_do() -> None:
    """Hardly confident classifiers, as those of unit embeddings: every threshold stops some images early, not all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 500, 10, generator=generator) * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    labels = torch.randint(0, 10, (500,), generator=generator)
    thresholds = occurring_thresholds(logits)
    confidences = logits.softmax(-1).amax(-1).flatten()
    expected = torch.quantile(confidences.double(), torch.arange(0.1, 0.95, 0.1, dtype=torch.float64))
    assert thresholds == pytest.approx(expected.tolist(), rel=5e-3)
    dims = [cascade_outcome(logits, labels, (2, 4, 8), t, tied=False).metrics["mean_dim"] for t in thresholds]
    assert dims == sorted(dims)
    assert all(2 < dim < 8 for dim in dims)
    assert occurring_thresholds(torch.zeros(2, 4, 5)) == [0.2]


def test_cascade_limits() -> None:
    """A threshold below chance is the first classifier, one above all probabilities the last."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = (torch.randn(3, 50, 4, generator=generator), torch.randint(0, 4, (50,), generator=generator))
    single = classifier_outcomes(logits, labels, (2, 4, 8))
    assert cascade_outcome(logits, labels, (2, 4, 8), 0.1, tied=True).metrics["top1"] == single[0].metrics["top1"]
    assert cascade_outcome(logits, labels, (2, 4, 8), 1.0, tied=True).metrics["top1"] == single[2].metrics["top1"]
    assert single[2].operations == 8 * 4
