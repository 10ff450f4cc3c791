"""Linear probes against their definition and against the optimum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.errors import UserError
from wasskit.evaluation.linear import (
    ProbeProtocol,
    frozen_features,
    linear_probe,
    new_classifier,
    probe_counts,
    train_probe,
)


def blobs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    return torch.eye(3, 5)[labels] + 0.3 * torch.randn(samples, 5, generator=generator), labels


def test_the_rate_falls_by_a_cosine_of_the_epoch() -> None:
    protocol = ProbeProtocol()
    assert [protocol.rate(0), protocol.rate(50)] == pytest.approx([0.3, 0.15])
    assert protocol.rate(99) == pytest.approx(0.3 * (1 + math.cos(0.99 * math.pi)) / 2)


def test_training_is_the_published_sgd() -> None:
    features, labels = blobs(20, seed=0)
    protocol = ProbeProtocol(epochs=3, learning_rate=0.5, momentum=0.8, weight_decay=0.01)
    classifier = new_classifier(5, 3)
    weight, bias = classifier.weight.detach().clone(), classifier.bias.detach().clone()
    seen: list[int] = []
    train_probe(classifier, lambda _: [(features, labels)] * 2, protocol, after_epoch=seen.append)

    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    onehot = F.one_hot(labels, 3).float()
    for step in range(6):
        residual = ((features @ weight.T + bias).softmax(1) - onehot) / 20
        gradients = [residual.T @ features + 0.01 * weight, residual.sum(0) + 0.01 * bias]
        velocity = [0.8 * v + g for v, g in zip(velocity, gradients, strict=True)]
        rate = 0.5 * (1 + math.cos(math.pi * (step // 2) / 3)) / 2
        weight, bias = weight - rate * velocity[0], bias - rate * velocity[1]
    torch.testing.assert_close(classifier.weight.detach(), weight)
    torch.testing.assert_close(classifier.bias.detach(), bias)
    assert seen == [1, 2, 3]


def test_the_fast_probe_separates_what_a_line_separates() -> None:
    train, test = blobs(300, seed=1), blobs(200, seed=2)
    result = linear_probe(*train, *test, protocol=ProbeProtocol(epochs=20), batch_size=64)
    centres = torch.eye(3, 5)
    optimum = float((torch.cdist(test[0], centres).argmin(1) == test[1]).double().mean())
    assert result.top1 >= optimum - 0.02
    assert result.top1 <= result.best_top1 <= result.top5 == 1
    assert 1 <= result.best_epoch <= 20
    again = linear_probe(*train, *test, protocol=ProbeProtocol(epochs=20), batch_size=64)
    assert torch.equal(again.classifier.weight, result.classifier.weight)


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor
    indices: Tensor


def test_the_backbone_stays_frozen() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images, labels = torch.randn(12, 1, 4, 4), torch.arange(12) % 2

    def batches(epoch: int) -> Iterator[Batch]:
        for rows in torch.randperm(12, generator=torch.Generator().manual_seed(epoch)).split(4):
            yield Batch(images[rows], labels[rows], rows)

    classifier = new_classifier(16, 2)
    train_probe(classifier, frozen_features(backbone, batches), ProbeProtocol(epochs=30))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    features = backbone.eval()(images).detach()
    assert probe_counts(classifier, [(features, labels)]).topk(1) > 0.9


def test_wrong_requests() -> None:
    features, labels = blobs(10, seed=0)
    with pytest.raises(UserError, match="some have none"):
        linear_probe(features, labels - 3, features, labels)
    with pytest.raises(UserError, match="differ in number"):
        linear_probe(features, labels[:-1], features, labels)
    with pytest.raises(UserError, match="one of the splits is empty"):
        linear_probe(features, labels, features[:0], labels[:0])


@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
def test_logistic_probe_is_scikit_learns(ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimum is unique: both are within the solvers' tolerance of it, also where rows are seen a few at a time."""
    from sklearn.linear_model import LogisticRegression

    from wasskit.evaluation import linear

    monkeypatch.setattr(linear, "_LOGITS", 100)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (120,), generator=generator)
    rows = torch.nn.functional.one_hot(labels, 6) + torch.randn(120, 6, generator=generator, dtype=torch.float64)
    found = linear.logistic_probe(rows, labels, 4, ridge=ridge, iterations=500)
    model = LogisticRegression(C=1 / (120 * ridge), tol=1e-10, max_iter=10_000).fit(rows.numpy(), labels.numpy())
    expected = torch.from_numpy(model.predict_proba(rows.numpy()))
    # Curvature is at least about the ridge; both gradients are below 1e-7, so that weights differ by 1e-3 at most in
    # the flattest direction, which moves no probability by as much.
    torch.testing.assert_close(found(rows).softmax(1), expected, atol=1e-3, rtol=0)
    assert bool((found(rows).argmax(1) == torch.from_numpy(model.predict(rows.numpy()))).all())
    with pytest.raises(UserError, match="labels from 0 to 2: some samples have none"):
        linear.logistic_probe(rows, labels, 3)
    with pytest.raises(UserError, match="120 have 3"):
        linear.logistic_probe(rows, labels[:3], 4)
