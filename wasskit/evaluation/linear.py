"""Linear probes: how well one linear layer on frozen features tells the classes apart.

The protocol is that of "Rethinking the Uniformity Metric in Self-Supervised Learning": SGD with learning rate 0.3,
momentum 0.9, weight decay 1e-6, a cosine to zero over 100 epochs, on random crops and flips seen through the frozen
backbone. ``train_probe`` with ``frozen_features`` is that protocol; ``linear_probe`` is the fast one, on features of
the images as they are, computed once. ``logistic_probe`` has no schedule: the minimum of a convex function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import broadcast_module, reduce_sum
from wasskit.distributed.gradients import GradientAverage
from wasskit.distributed.group import world_size
from wasskit.errors import UserError
from wasskit.evaluation.accuracy import RankCounts
from wasskit.evaluation.embedding import Embedder, LabelledImages, encode_batches
from wasskit.ot.precision import Precision

FeatureBatches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class ProbeProtocol:
    """How a probe is trained; the defaults are the published ones. The learning rate falls after each epoch."""

    epochs: int = 100
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-6

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0: learning_rate (1 + cos(pi epoch / epochs)) / 2."""
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracies in [0, 1] after the last epoch and at the best one, and the trained layer."""

    top1: float
    top5: float
    best_top1: float
    best_epoch: int
    classifier: nn.Linear


def new_classifier(num_features: int, num_classes: int, *, seed: int = 0) -> nn.Linear:
    """A linear layer with normal weights of deviation 0.01 and zero bias, a function of the seed."""
    classifier = nn.Linear(num_features, num_classes)
    nn.init.normal_(classifier.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(classifier.bias)
    return classifier


def train_probe(
    classifier: nn.Linear,
    batches: FeatureBatches,
    protocol: ProbeProtocol = ProbeProtocol(),
    *,
    distributed: bool = True,
    after_epoch: Callable[[int], None] | None = None,
) -> nn.Linear:
    """Train a linear layer on features (B, D) and labels (B,) given by ``batches(epoch)``, by cross entropy, in place.

    With ``distributed``, each process brings its share of every batch, at least one sample, and gradients are averaged
    over the samples: the result is that of one process with whole batches. ``after_epoch(epoch)`` is called with
    1, 2, ..., to evaluate.
    """
    if distributed:
        broadcast_module(classifier)
    optimiser = torch.optim.SGD(
        classifier.parameters(),
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )
    average = GradientAverage(classifier.parameters())
    for epoch in range(protocol.epochs):
        optimiser.param_groups[0]["lr"] = protocol.rate(epoch)
        for features, labels in batches(epoch):
            optimiser.zero_grad()
            loss = F.cross_entropy(classifier(features), labels)
            if distributed:
                # N n_r / n: 1 where the shares are equal.
                own = torch.tensor(len(labels), dtype=loss.dtype, device=loss.device)
                loss = loss * (own * world_size() / reduce_sum(own))
            loss.backward()
            if distributed:
                average.finish()
            optimiser.step()
        if after_epoch is not None:
            after_epoch(epoch + 1)
    return classifier


def frozen_features(
    encoder: Embedder, batches: Callable[[int], Iterable[LabelledImages]], *, precision: Precision = "fp32"
) -> FeatureBatches:
    """``batches`` for :func:`train_probe` from batches of augmented images seen through a frozen backbone.

    ``batches`` is a training loader's method of that name. The encoder is in evaluation mode: its batch norms
    do not learn.
    """

    def encoded(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for features, labels, _ in encode_batches(encoder, batches(epoch), precision=precision):
            yield features, labels

    return encoded


@torch.no_grad()
def probe_counts(classifier: nn.Linear, batches: Iterable[tuple[Tensor, Tensor]]) -> RankCounts:
    """Ranks of the true classes under a classifier, over features (B, D) and labels (B,), not yet reduced."""
    counts = RankCounts(device=classifier.weight.device)
    for features, labels in batches:
        counts.update(classifier(features), labels)
    return counts


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    protocol: ProbeProtocol = ProbeProtocol(),
    batch_size: int = 256,
    seed: int = 0,
) -> ProbeResult:
    """The fast probe: train on features computed once, test after each epoch.

    train_features (N, D) float32, train_labels (N,) int64, and the same for the test set, on one device. Every process
    that calls it computes the same. Raises UserError for samples without labels and sets that do not fit together.
    """
    if len(train_features) != len(train_labels) or len(test_features) != len(test_labels):
        raise UserError("a linear probe needs a label per sample: features and labels differ in number.")
    if len(train_labels) == 0 or len(test_labels) == 0:
        raise UserError("a linear probe needs training and test samples: one of the splits is empty.")
    if min(int(train_labels.min()), int(test_labels.min())) < 0:
        raise UserError("a linear probe needs a label per sample, and some have none: choose a labelled split.")
    num_classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    classifier = new_classifier(train_features.shape[1], num_classes, seed=seed).to(train_features.device)
    generator = torch.Generator().manual_seed(seed)

    def batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(train_labels), generator=generator).to(train_labels.device)
        for rows in order.split(batch_size):
            yield train_features[rows], train_labels[rows]

    counts: list[RankCounts] = []

    def test(_: int) -> None:
        counts.append(probe_counts(classifier, [(test_features, test_labels)]))

    with torch.enable_grad():
        train_probe(classifier, batches, protocol, distributed=False, after_epoch=test)
    top1 = torch.stack([epoch.topk(1) for epoch in counts])
    best = int(top1.argmax())
    return ProbeResult(float(top1[-1]), float(counts[-1].topk(5)), float(top1[best]), best + 1, classifier)


_LOGITS = 1 << 24


def logistic_probe(
    features: Tensor, labels: Tensor, num_classes: int, *, ridge: float = 1e-5, iterations: int = 100
) -> nn.Linear:
    """Multinomial logistic regression: the minimum of mean cross entropy + ridge / 2 |W|^2, by L-BFGS from 0.

    The biases are free. With N samples this is scikit-learn's ``LogisticRegression(C=1 / (N ridge))``.

    Args:
        features: (N, D) float32 or float64, best with rows of length about 1.
        labels: (N,) int64 below ``num_classes``.
        iterations: most steps of L-BFGS; each sees all samples, some rows at a time.

    Raises:
        UserError: no samples, or one without a label.
    """
    if len(features) != len(labels) or len(labels) == 0:
        raise UserError(f"a linear probe needs samples with a label each: {len(features)} have {len(labels)}.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise UserError(f"a linear probe needs labels from 0 to {num_classes - 1}: some samples have none.")
    classifier = nn.Linear(features.shape[1], num_classes, device=features.device, dtype=features.dtype)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    rows = max(1, _LOGITS // num_classes)
    optimiser = torch.optim.LBFGS(
        classifier.parameters(), max_iter=iterations, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, tolerance_change=1e-10,
    )  # fmt: skip

    def objective() -> Tensor:
        optimiser.zero_grad()
        total = ridge / 2 * classifier.weight.square().sum()
        total.backward()
        total = total.detach()
        for x, y in zip(features.split(rows), labels.split(rows), strict=True):
            loss = F.cross_entropy(classifier(x), y, reduction="sum") / len(labels)
            loss.backward()
            total = total + loss.detach()
        return total

    with torch.enable_grad():
        optimiser.step(objective)
    return classifier.requires_grad_(False)
