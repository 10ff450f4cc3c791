"""Domain adaptation: features of a classifier of the target domain, moved there from the source domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.data.domains import Domain
from wasskit.data.seeds import derive_seed
from wasskit.data.transfer import sent
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.shard import map_shards, shard_indices, shard_weight
from wasskit.evaluation.retrieval import nearest
from wasskit.evaluation.transport import gaussian_distance
from wasskit.ot.energy import energy_distance
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.core.stages import FirstStage, Points, balanced
from wasskit.plugins.w2gn.core.task import own_rows
from wasskit.training.schedules import cosine
from wasskit.training.task import Losses, Optimisation, Plan, Progress


class LeNet(nn.Module):
    """LeCun's network for images (B, 1, 28, 28); its 84 features are the last hidden layer. Published
    names load.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(256, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def features(self, images: Tensor) -> Tensor:
        """The features (B, 84)."""
        h = F.max_pool2d(F.relu(self.conv1(images)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        return F.relu(self.fc2(F.relu(self.fc1(h.flatten(1)))))

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, classes)."""
        logits: Tensor = self.fc3(self.features(images))
        return logits


class ClassifierStage(FirstStage):
    """Train the classifier on the target domain; then the points are the features of both domains'
    training images.
    """

    def __init__(self, source: Domain, target: Domain, batch_size: int, lr: float, seed: int) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.batch_size, self.lr, self.seed = batch_size, lr, seed
        self.classifier = LeNet(int(max(source.train_labels.max(), target.train_labels.max())) + 1)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Images of the target domain with a little noise and contrast, and their labels."""
        rows = own_rows(self.batch_size, "the classifier's batch")
        own = slice(rows.start, rows.stop)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "classifier", number, 0))
        known, size = self.target.train_images, self.batch_size
        index = torch.randint(len(known), (size,), generator=generator)[own]
        contrast = 1.0 + 0.1 * (torch.rand(size, 1, 1, 1, generator=generator)[own] - 0.5)
        noise = 0.005 * torch.randn(size, *known.shape[1:], generator=generator)[own]
        return (known[index] * contrast + noise).clamp(0, 1), self.target.train_labels[index]

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        adam = torch.optim.Adam(self.classifier.parameters(), self.lr)
        return [Optimisation(adam, cosine(plan.total_steps, end=0.05), "classifier")]

    def step(self, batch: tuple[Tensor, Tensor], stepper: Any) -> Losses:
        images, labels = (sent(part, stepper.device) for part in batch)
        with stepper.autocast():
            loss = F.cross_entropy(self.classifier(images), labels)
        losses = Losses(loss).weighted(shard_weight(self.batch_size))
        stepper.backward(losses.total)
        stepper.update("classifier")
        return losses

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {
            "test": {"classifier_target": self.accuracy(self.target.test_images, self.target.test_labels)}
        }

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Percent of images that the classifier itself gets right. Called by all ranks."""
        device = self.classifier.fc3.weight.device
        rows = shard_indices(len(labels))
        own = slice(rows.start, rows.stop)
        right = [
            (self.classifier(part.to(device)).argmax(1).cpu() == known).sum()
            for part, known in zip(images[own].split(1024), labels[own].split(1024), strict=True)
        ]
        return 100.0 * float(reduce_sum(torch.stack(right).sum())) / len(labels)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features of many images (N, 84), on the classifier's device. Called by all ranks."""
        device = self.classifier.fc3.weight.device

        def features(own: Tensor) -> Tensor:
            return torch.cat([self.classifier.features(part.to(device)) for part in own.split(2048)])

        return map_shards(features, images)

    def points(self) -> Points:
        return Points(self.features(self.source.train_images), self.features(self.target.train_images))


class Adaptation:
    """1-nearest-neighbour accuracy of mapped source features among the labelled target features."""

    def __init__(self, stage: ClassifierStage) -> None:
        self.stage = stage
        self._known: Mapping[str, Tensor] | None = None

    def known(self) -> Mapping[str, Tensor]:
        """Features of all four parts; made once, when the classifier is trained."""
        if self._known is None:
            source, target = self.stage.source, self.stage.target
            self._known = {
                "source_train": self.stage.features(source.train_images),
                "source_test": self.stage.features(source.test_images),
                "target_train": self.stage.features(target.train_images),
                "target_test": self.stage.features(target.test_images),
            }
        return self._known

    def nearest(self, features: Tensor, labels: Tensor) -> float:
        """Percent of the features whose nearest target training feature has their label."""
        known = self.known()["target_train"], self.stage.target.train_labels
        found = map_shards(lambda own: nearest_labels(own, *known), features)
        return 100.0 * float((found == labels).float().mean())

    def __call__(self, transport: W2GN, progress: Progress | None) -> dict[str, dict[str, float]]:
        known, source = self.known(), self.stage.source
        mapped = {
            part: map_shards(transport.forward_map, known[f"source_{part}"]) for part in ("train", "test")
        }
        labels = {"train": source.train_labels, "test": source.test_labels}
        results: dict[str, dict[str, float]] = {}
        for part, features in mapped.items():
            logits = self.stage.classifier.fc3(features).argmax(1).cpu()
            results[part] = {
                "knn_mapped": self.nearest(features, labels[part]),
                "classifier_mapped": 100.0 * float((logits == labels[part]).float().mean()),
            }
        before, after = known["source_test"], mapped["test"]
        target = known["target_test"]
        generator = torch.Generator(target.device).manual_seed(0)
        theta = torch.randn(128, target.shape[1], generator=generator, device=target.device)
        results["test"] |= {
            "energy_before": float(energy_distance(before, target, theta)),
            "energy_forward": float(energy_distance(after, target, theta)),
            "moments_forward": gaussian_distance(after, target),
        }
        return results

    @torch.no_grad()
    def baselines(self, seed: int = 0, floor: float = 1e-3) -> dict[str, float]:
        """Accuracies on the source's test images without a map, by the map between the Gaussians of the features,
        and by discrete optimal transport.

        Args:
            floor: of the Gaussian map, see `wasskit.ot.gaussian.balance`.
        """
        known, source = self.known(), self.stage.source
        before = known["source_test"]
        linear = balanced(known["source_train"], known["target_train"], floor).to(before).gaussian_map(before)
        logits = self.stage.classifier.fc3(linear).argmax(1).cpu()
        return {
            "knn_gaussian": self.nearest(linear, source.test_labels),
            "classifier_gaussian": 100.0 * float((logits == source.test_labels).float().mean()),
            "knn_before": self.nearest(before, source.test_labels),
            "classifier_before": self.stage.accuracy(source.test_images, source.test_labels),
            "knn_discrete": self.nearest(
                discrete_map(before, known["target_train"], seed), source.test_labels
            ),
        }


def nearest_labels(queries: Tensor, references: Tensor, labels: Tensor) -> Tensor:
    """Labels (N,) of the nearest reference, by Euclidean distance, of each query (N, D); of equal ones the first's."""
    return labels[nearest(queries, 1, gallery=references, metric="euclidean")[1][:, 0].cpu()]


def discrete_map(x: Tensor, y: Tensor, seed: int, repeats: int = 4, size: int = 2048) -> Tensor:
    """Discrete optimal transport of points: the mean of the partners in optimal assignments to random
    parts of ``y``.

    An assignment takes time of the order of the cube of its size: ``x`` is mapped ``size`` points at a time.
    """
    from scipy.optimize import linear_sum_assignment

    generator = torch.Generator().manual_seed(derive_seed(seed, "assignment"))
    mapped = []
    for points in x.split(size):
        total = torch.zeros_like(points)
        for _ in range(repeats):
            if len(y) >= len(points):
                index = torch.randperm(len(y), generator=generator)[: len(points)]
            else:
                index = torch.randint(len(y), (len(points),), generator=generator)
            part = y[index.to(y.device)]
            cost = torch.cdist(points.double(), part.double()).square().cpu().numpy()
            _, partner = linear_sum_assignment(cost)
            total += part[torch.from_numpy(np.asarray(partner)).to(y.device)]
        mapped.append(total / repeats)
    return torch.cat(mapped)
