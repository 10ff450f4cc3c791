"""Domain adaptation: features of a classifier of the target domain, moved there from the source domain.

`ClassifierStage` trains the classifier, `Adaptation` judges the map of its features.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.data.domains import Domain
from wasskit.data.seeds import derive_seed
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.shard import map_shards, shard_indices, shard_weight
from wasskit.evaluation.intervals import chance_difference
from wasskit.evaluation.retrieval import nearest
from wasskit.evaluation.transport import gaussian_distance
from wasskit.ot.assignment import optimal_assignment
from wasskit.ot.energy import energy_distance, random_directions
from wasskit.ot.precision import autocast
from wasskit.plugins.w2gn.core.evaluation import flat
from wasskit.plugins.w2gn.core.stages import FirstStage, Points
from wasskit.plugins.w2gn.core.task import own_rows
from wasskit.plugins.w2gn.core.transport import W2GN, gaussian_coordinates
from wasskit.plugins.w2gn.figures import principal_planes
from wasskit.report import Report, Table
from wasskit.system.transfer import to_device
from wasskit.training.optim import build_optimizer
from wasskit.training.schedules import cosine
from wasskit.training.task import Losses, Optimisation, Plan, Progress

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


class LeNet(nn.Module):
    """LeCun's network for images (B, 1, 28, 28); its 84 features are the last hidden layer. Published names load."""

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
    """Train the classifier on the target domain; then the points are the features of both domains' training images."""

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
        adam = build_optimizer("adam", self.classifier.parameters(), lr=self.lr)
        return [Optimisation(adam, cosine(plan.total_steps, end=0.05), "classifier")]

    def step(self, batch: tuple[Tensor, Tensor], stepper: Any) -> Losses:
        images, labels = (to_device(part, stepper.device) for part in batch)
        with stepper.autocast():
            loss = F.cross_entropy(self.classifier(images), labels)
        losses = Losses(loss).weighted(shard_weight(self.batch_size))
        stepper.backward(losses.total)
        stepper.update("classifier")
        return losses

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {"test": {"classifier_target": self.accuracy(self.target.test_images, self.target.test_labels)}}

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Percent of images that the classifier itself gets right. Called by all ranks."""
        device = self.classifier.fc3.weight.device
        rows = shard_indices(len(labels))
        own = slice(rows.start, rows.stop)
        with autocast(device, self.precision):
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

    def fresh(self) -> Points:
        return Points(self.features(self.source.test_images), self.features(self.target.test_images))


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

    def scores(self, transport: W2GN) -> dict[str, dict[str, float]]:
        """Accuracies on the mapped source images, and distances of their features to the target's."""
        known, source = self.known(), self.stage.source
        before, target = known["source_test"], known["target_test"]
        results: dict[str, dict[str, float]] = {}
        for part, labels in (("train", source.train_labels), ("test", source.test_labels)):
            after = map_shards(transport.forward_map, known[f"source_{part}"])
            results[part] = {
                "knn_mapped": self.nearest(after, labels),
                "classifier_mapped": self.classified(after, labels),
            }
        seeded = torch.Generator(target.device).manual_seed(0)
        directions = random_directions(128, target.shape[1], like=target, generator=seeded)
        results["test"] |= {
            "energy_before": float(energy_distance(before, target, directions)),
            "energy_forward": float(energy_distance(after, target, directions)),
            "moments_forward": gaussian_distance(after, target),
        }
        return results

    def classified(self, features: Tensor, labels: Tensor) -> float:
        """Percent of the features that the classifier's last layer gets right."""
        found = self.stage.classifier.fc3(features).argmax(1).cpu()
        return 100.0 * float((found == labels).float().mean())

    @torch.no_grad()
    def baselines(self, seed: int = 0, floor: float = 1e-3) -> dict[str, float]:
        """Accuracies on the source's test images without a map, by the map between the Gaussians of the features,
        and by discrete optimal transport.

        Args:
            floor: of the Gaussian map, see `wasskit.ot.gaussian.balance`.
        """
        known, source = self.known(), self.stage.source
        before, labels = known["source_test"], source.test_labels
        coordinates = gaussian_coordinates(known["source_train"], known["target_train"], floor)
        linear = coordinates.to(before).gaussian_map(before)
        return {
            "knn_gaussian": self.nearest(linear, labels),
            "classifier_gaussian": self.classified(linear, labels),
            "knn_before": self.nearest(before, labels),
            "classifier_before": self.stage.accuracy(source.test_images, labels),
            "knn_discrete": self.nearest(discrete_map(before, known["target_train"], seed), labels),
        }

    def report(
        self, transport: W2GN, final: Mapping[str, float] | None = None, *, seed: int = 0, floor: float = 1e-3
    ) -> Report:
        """The table beside the `baselines`, the features as a figure, and the classifier's weights.

        Args:
            final: the scores as ``split/metric``, where they are known.
        """
        source, target = self.stage.source, self.stage.target
        final = dict(flat(self.scores(transport)) if final is None else final)
        final |= flat({"test": self.baselines(seed, floor)})
        final["test/classifier_target"] = self.stage.accuracy(target.test_images, target.test_labels)
        rows: list[list[Any]] = [
            ["before", final["test/knn_before"], final["test/classifier_before"]],
            ["Gaussian map", final["test/knn_gaussian"], final["test/classifier_gaussian"]],
            ["discrete optimal transport", final["test/knn_discrete"], None],
            ["W2GN map", final["test/knn_mapped"], final["test/classifier_mapped"]],
            [f"({target.name} test images themselves)", None, final["test/classifier_target"]],
        ]
        title = f"{source.name} to {target.name}, accuracy on {source.name} test images, %"
        return Report(
            {"final": final},
            [Table(["", "1-NN", "classifier"], rows, title)],
            notes=[_beside_the_gaussian(final, len(source.test_labels))],
            files={"classifier.pt": partial(torch.save, self.stage.classifier.state_dict())},
            figures={"features": lambda: self.draw(transport)},
        )

    def draw(self, transport: W2GN, count: int = 1500) -> Figure:
        """Features of both domains, and those of the source when they are mapped, coloured by label."""
        source, target = self.stage.source, self.stage.target
        before, goal = (self.known()[f"{side}_test"][:count] for side in ("source", "target"))
        clouds = {
            f"{source.name} features": before,
            f"{source.name} mapped": transport.forward_map(before),
            f"{target.name} features": goal,
        }
        labels = [source.test_labels, source.test_labels, target.test_labels]
        return principal_planes(clouds, {name: own[:count] for name, own in zip(clouds, labels, strict=True)})


def _beside_the_gaussian(final: Mapping[str, float], images: int) -> str:
    """What the classifier's accuracies say of the map beside that of the fitted Gaussians."""
    gaussian, mapped = final["test/classifier_gaussian"], final["test/classifier_mapped"]
    gain, chance = mapped - gaussian, chance_difference(gaussian, mapped, images)
    if abs(gain) <= chance:
        return (
            f"For the classifier the W2GN map and the Gaussian map differ by {gain:+.2f} points, less than by chance "
            f"alone ({chance:.1f} for so many images): one run does not tell which is better."
        )
    kind = "better" if gain > 0 else "worse"
    return f"For the classifier the W2GN map is {kind} than the Gaussian map by {abs(gain):.2f} points."


def nearest_labels(queries: Tensor, references: Tensor, labels: Tensor) -> Tensor:
    """Labels (N,) of the nearest reference, by Euclidean distance, of each query (N, D); of equal ones the first's."""
    return labels[nearest(queries, 1, gallery=references, metric="euclidean")[1][:, 0].cpu()]


def discrete_map(x: Tensor, y: Tensor, seed: int, repeats: int = 4, size: int = 2048) -> Tensor:
    """Discrete optimal transport of points: the mean of the partners in optimal assignments to random parts of ``y``.

    An assignment takes time of the order of the cube of its size: ``x`` is mapped ``size`` points at a time.
    """
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
            partner, _ = optimal_assignment(points, part)
            total += part[partner.to(y.device)]
        mapped.append(total / repeats)
    return torch.cat(mapped)
