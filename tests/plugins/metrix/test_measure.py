from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.evaluation.embedding import Features
from wasskit.plugins.metrix.measure import (
    geometry,
    mix_pairs,
    nearest_of_each_kind,
    positive_alignment,
    retrieval_percent,
    utilisation,
)


def features(n: int, classes: int, seed: int, dim: int = 5) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, dim, generator=generator)
    x = F.normalize(centres[labels] + 0.5 * torch.randn(n, dim, generator=generator))
    return Features(x, labels, torch.arange(n))


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None, :]).square().sum(2)


def test_alignment_is_the_mean_over_positive_pairs() -> None:
    f = features(60, 9, 1)
    distances = squared(f.features.double(), f.features.double())
    pairs = (f.labels[:, None] == f.labels[None, :]) & ~torch.eye(60, dtype=torch.bool)
    assert positive_alignment(f.features, f.labels) == pytest.approx(float(distances[pairs].mean()), rel=1e-6)
    assert math.isnan(positive_alignment(f.features[:5], torch.arange(5)))
    assert positive_alignment(torch.ones(4, 3), torch.zeros(4)) == pytest.approx(0, abs=1e-12)


def test_utilisation_is_the_distance_to_the_nearest_item() -> None:
    queries, items = features(40, 4, 2).features, features(70, 7, 3).features
    expected = float(squared(queries.double(), items.double()).amin(1).mean())
    assert utilisation(queries, items) == pytest.approx(expected, rel=1e-5)
    assert utilisation(items, items) == pytest.approx(0, abs=1e-6)


def test_mixtures_lie_between_different_classes() -> None:
    # One class on each axis: a mixture of two classes has exactly two coordinates.
    x, labels = torch.eye(4).repeat_interleave(5, 0), torch.arange(4).repeat_interleave(5)
    mixed = mix_pairs(x, labels, 1000, 2.0, 0)
    assert 650 < len(mixed) < 850
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(len(mixed)))
    assert torch.equal((mixed > 0).sum(1), torch.full((len(mixed),), 2))
    assert torch.equal(mixed, mix_pairs(x, labels, 1000, 2.0, 0))
    assert not torch.equal(mixed[:50], mix_pairs(x, labels, 1000, 2.0, 1)[:50])


def test_mixing_cannot_raise_utilisation() -> None:
    test, train = features(50, 4, 4), features(80, 6, 5)
    shape = geometry(test, train, mixed=500)
    assert 0 < shape.mixed_utilisation <= shape.utilisation
    assert shape.utilisation == pytest.approx(utilisation(test.features, train.features), rel=1e-6)
    assert shape.mixed <= 500


def test_geometry_item_by_item() -> None:
    test, train = features(30, 4, 9), features(40, 6, 10)
    shape = geometry(test, train, mixed=60, alpha=2.0, seed=3)
    x, y = test.features.double(), train.features.double()
    potentials = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(30) for j in range(i)]
    assert shape.uniformity == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-6)
    positive = [
        float((x[i] - x[j]).square().sum()) for i in range(30) for j in range(i) if test.labels[i] == test.labels[j]
    ]
    assert shape.alignment == pytest.approx(sum(positive) / len(positive), rel=1e-6)
    mixtures = mix_pairs(train.features, train.labels, 60, 2.0, 3).double()
    for found, items in ((shape.utilisation, y), (shape.mixed_utilisation, torch.cat([y, mixtures]))):
        nearest = [min(float((q - item).square().sum()) for item in items) for q in x]
        assert found == pytest.approx(sum(nearest) / 30, rel=1e-5)
    assert shape.mixed == len(mixtures)


def test_retrieval_is_in_percent() -> None:
    test, gallery = features(50, 4, 6), features(90, 4, 7)
    values = retrieval_percent(test, gallery, (1, 5))
    assert list(values) == ["recall@1", "recall@5", "precision@1", "map@r"]
    hits = (test.features @ gallery.features.T).topk(5).indices
    right = gallery.labels[hits] == test.labels[:, None]
    assert values["recall@5"] == pytest.approx(100 * float(right.any(1).float().mean()))
    assert values["precision@1"] == pytest.approx(100 * float(right[:, 0].float().mean()))


def test_nearest_of_each_kind() -> None:
    f = features(40, 5, 8)
    cosine = f.features @ f.features.T
    same = f.labels[:, None] == f.labels[None, :]
    positive = cosine.masked_fill(~same | torch.eye(40, dtype=torch.bool), -2).amax(1)
    negative = cosine.masked_fill(same, -2).amax(1)
    both = (positive > -2) & (negative > -2)
    found = nearest_of_each_kind(f, None)
    torch.testing.assert_close(found[0].sort().values, positive[both].sort().values)
    torch.testing.assert_close(found[1].sort().values, negative[both].sort().values)
    assert len(nearest_of_each_kind(f, None, most=7)[0]) <= 7
