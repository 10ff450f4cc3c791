"""The columns of the published table: accuracies on features, uniformity and alignment of projections.

k-NN and linear accuracies are those of the backbone's features; W2, L_U, the spectrum and the effective rank
are of the normalised projections of the test images as they are, the alignment of those of two random views
of each. All accuracies are in percent, and every metric is named after its protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import Batch, EvalLoader, TrainLoader
from wasskit.data.seeds import derive_seed
from wasskit.data.views import ViewDistribution, random_views
from wasskit.distributed.collectives import reduce_sum
from wasskit.errors import UserError
from wasskit.evaluation.embedding import Features, encode_batches, extract_features
from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.label_free import rankme
from wasskit.evaluation.linear import ProbeProtocol, frozen_features, new_classifier, probe_counts, train_probe
from wasskit.evaluation.uniformity import (
    alignment,
    effective_rank,
    gaussian_uniformity,
    singular_spectrum,
    w2_uniformity,
)
from wasskit.ot.precision import Precision
from wasskit.plugins.ssl.network import Encoder

Metrics = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """Where and how networks are run, and the seed of what is random."""

    device: torch.device | str = "cpu"
    batch_size: int = 256
    workers: int | None = None
    precision: Precision = "fp32"
    seed: int = 0

    def loader(self, dataset: ImageDataset) -> EvalLoader:
        """The images of a data set as they are."""
        return EvalLoader(dataset, self.batch_size, device=self.device, workers=self.workers)


@dataclass(frozen=True)
class Neighbours:
    """The protocol of k-NN: k votes weighing exp(cosine / temperature), published with k = 200 and temperature 1."""

    k: int
    temperature: float | None = None

    @property
    def name(self) -> str:
        return f"knn{self.k}" + ("" if self.temperature is None else f"t{self.temperature:g}")

    @classmethod
    def among(cls, bank: ImageDataset, k: int | None = None, temperature: float | None = None) -> Neighbours:
        """k neighbours among the images of ``bank``; by default 200, but 10 among fewer than 5,000.

        Raises ``UserError`` where the set has fewer images than votes are asked for, or no labels."""
        require_labels(bank, "k-NN")
        return cls.of(len(bank), f"{bank.name}/{bank.split}", k, temperature)

    @classmethod
    def of(
        cls, count: int, where: str, k: int | None, temperature: float | None, *, things: str = "images"
    ) -> Neighbours:
        """As :meth:`among`, of so many labelled ``things`` that ``where`` has."""
        if k is None:
            k = 200 if count >= 5000 else min(10, count)
        if k > count:
            raise UserError(
                f"k-NN asks for {k} neighbours, but {where} has {count} {things}: take a k of at most {count}."
            )
        return cls(k, temperature)

    def measure(self, bank: Features, queries: Features) -> Metrics:
        top1, top5 = knn_accuracy(
            bank.features, bank.labels, queries.features, queries.labels, self.k, self.temperature,
            topk=(1, 5), sharded=True,
        ).tolist()  # fmt: skip
        return {f"{self.name}_top1": 100 * top1, f"{self.name}_top5": 100 * top5}


def require_labels(dataset: ImageDataset, what: str) -> None:
    """Raises ``UserError`` unless every image has a label, and not all the same."""
    if dataset.labels is None or bool((dataset.labels < 0).any()):
        raise UserError(
            f"{what} needs labels, and {dataset.name}/{dataset.split} has images without: choose a labelled set "
            "by --dataset, or measure W2, L_U and alignment alone."
        )
    if is_of_one_class(dataset):
        raise UserError(
            f"{what} tells classes apart, and all images of {dataset.name}/{dataset.split} are of one, "
            f"{dataset.classes[0]}: measure W2, L_U and alignment alone."
        )


def is_of_one_class(dataset: ImageDataset) -> bool:
    """Whether the images have labels, all the same: every classifier is right of them."""
    return dataset.labels is not None and len(dataset.classes) == 1 and bool((dataset.labels == 0).all())


def is_labelled(dataset: ImageDataset) -> bool:
    """Whether every image has a label by which it can be told from others."""
    return dataset.labels is not None and not bool((dataset.labels < 0).any()) and not is_of_one_class(dataset)


def without_labels(test: ImageDataset) -> str:
    """The note where accuracies cannot be measured."""
    reason = "are all of one class" if is_of_one_class(test) else "have no labels"
    return (
        f"The images {reason}: W2, L_U and alignment are measured, on {test.name}/{test.split}; "
        "k-NN and a linear probe are not."
    )


def bank_and_test(load: Callable[[str], ImageDataset]) -> tuple[ImageDataset | None, ImageDataset]:
    """The labelled training images that vote in k-NN (None where there are none) and the images to measure on.

    ``load`` gives a split by name. A folder of images without labels has no test part: its own images serve.
    """
    bank = load("train")
    if not is_labelled(bank):
        try:
            return None, load("test")
        except UserError:
            return None, bank
    test = load("test")
    return (bank, test) if is_labelled(test) else (None, test)


class _Both(nn.Module):
    """Features and projections side by side, from one pass."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.both(images)


def features_of(network: nn.Module, dataset: ImageDataset, settings: Settings) -> Features:
    """What a network makes of the images as they are, on every process."""
    loader = settings.loader(dataset)
    try:
        return extract_features(network, loader, precision=settings.precision)
    finally:
        loader.close()


def features_and_projections(encoder: Encoder, dataset: ImageDataset, settings: Settings) -> tuple[Features, Tensor]:
    """Features and projections of the images as they are, from one pass."""
    both = features_of(_Both(encoder), dataset, settings)
    width = encoder.backbone.num_features
    return replace(both, features=both.features[:, :width]), both.features[:, width:]


def view_batches(
    dataset: ImageDataset, distributions: tuple[ViewDistribution, ...], settings: Settings
) -> Iterator[Batch]:
    """This process's share of the images, seen in random views, the views of a batch one after the other.

    What is drawn for an image depends on the seed and its place in the data set alone.
    """
    views = random_views(dataset, *distributions)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "views"))
    draws = views.draw(len(dataset), generator)
    loader = EvalLoader(dataset, settings.batch_size, views.decode or _as_stored, settings.device, settings.workers)
    try:
        for batch in loader:
            rows = batch.indices.cpu()
            seen = views.apply(batch.images, {name: x[rows] for name, x in draws.items()})
            yield _joined(seen, batch.labels, batch.indices)
    finally:
        loader.close()


def _as_stored(images: Tensor) -> Tensor:
    return images


def _joined(views: tuple[Tensor, ...], labels: Tensor, indices: Tensor) -> Batch:
    return Batch(torch.cat(views), labels.repeat(len(views)), indices.repeat(len(views)))


def uniformity_metrics(projections: Tensor) -> Metrics:
    """W2 and L_U (t = 2) of the normalised projections (N, D), and the effective rank of their covariance."""
    return {
        "w2": w2_uniformity(projections).item(),
        "lu": gaussian_uniformity(projections, sharded=True).item(),
        "effective_rank": effective_rank(projections).item(),
    }


def alignment_of_views(encoder: Encoder, dataset: ImageDataset, views: ViewDistribution, settings: Settings) -> float:
    """mean |z_1 - z_2|^2 of the normalised projections of two random views of each image."""
    total = torch.zeros(2, dtype=torch.float64)
    batches = view_batches(dataset, (views, views), settings)
    for projections, _, _ in encode_batches(encoder, batches, precision=settings.precision):
        first, second = projections.chunk(2)
        total += torch.tensor([len(first) * alignment(first, second).item(), len(first)])
    total = reduce_sum(total)
    return float(total[0] / total[1])


def standard_metrics(
    encoder: Encoder,
    bank: ImageDataset | None,
    test: ImageDataset,
    views: ViewDistribution,
    neighbours: Neighbours | None,
    settings: Settings,
    *,
    encoded: tuple[Features, Tensor] | None = None,
) -> Metrics:
    """All columns but the linear probe's; without k-NN where there is no labelled ``bank``.

    ``encoded``: :func:`features_and_projections` of ``test``, where they are there already."""
    features, projections = encoded or features_and_projections(encoder, test, settings)
    metrics: Metrics = {}
    if bank is not None and neighbours is not None:
        metrics |= neighbours.measure(features_of(encoder.backbone, bank, settings), features)
    metrics |= uniformity_metrics(projections)
    metrics["alignment"] = alignment_of_views(encoder, test, views, settings)
    return metrics


def probe_metrics(
    encoder: Encoder, bank: ImageDataset, test: ImageDataset, views: ViewDistribution, epochs: int, settings: Settings
) -> Metrics:
    """The linear probe's columns, and RankMe of the features of the test images."""
    known = features_of(encoder.backbone, test, settings)
    found, _ = linear_accuracy(
        encoder.backbone, bank, test, views, ProbeProtocol(epochs=epochs), settings,
        num_features=encoder.backbone.num_features, known=known,
    )  # fmt: skip
    return found | {"rankme": float(rankme(known.features))}


def spectrum_of(projections: Tensor) -> list[float]:
    """Logarithms of the singular values of the covariance of projections (N, D), -inf left out."""
    return [value for value in singular_spectrum(projections).tolist() if math.isfinite(value)]


def without_colour_changes(views: ViewDistribution) -> ViewDistribution:
    """The crop and the flip of a distribution of views, without changes of colour."""
    return replace(views, jitter=0.0, grey=0.0, blur=0.0, solarise=0.0)


def comparison(
    networks: Mapping[str, nn.Module],
    bank: ImageDataset,
    test: ImageDataset,
    views: ViewDistribution,
    neighbours: Neighbours,
    settings: Settings,
) -> dict[str, Metrics]:
    """k-NN accuracy of several representations on the test images as they are and on random crops of them.

    The neighbours are images as they are, seen by the same network.
    """
    crop = without_colour_changes(views)
    top1 = f"{neighbours.name}_top1"
    found = {}
    for name, network in networks.items():
        known = features_of(network, bank, settings)
        clean = neighbours.measure(known, features_of(network, test, settings))
        seen = extract_features(network, view_batches(test, (crop,), settings), precision=settings.precision)
        cropped = neighbours.measure(known, seen)
        found[name] = {top1: clean[top1], f"{top1}_cropped": cropped[top1]}
    return found


def linear_accuracy(
    backbone: nn.Module,
    train: ImageDataset,
    test: ImageDataset,
    views: ViewDistribution,
    protocol: ProbeProtocol,
    settings: Settings,
    *,
    num_features: int,
    probe_batch_size: int = 256,
    known: Features | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> tuple[Metrics, nn.Linear]:
    """The published linear probe: one layer on the frozen features of random crops and flips, tested after each epoch.

    Last and best accuracy are reported separately; ``after_epoch(epoch, top1)`` is called with percentages.
    ``known``: the features of ``test``, where they are there already.
    """
    for dataset in (train, test):
        require_labels(dataset, "A linear probe")
    loader = TrainLoader(
        train, min(probe_batch_size, len(train)), random_views(train, without_colour_changes(views)),
        device=settings.device, seed=settings.seed, workers=settings.workers, uneven=True,
    )  # fmt: skip
    if known is None:
        known = features_of(backbone, test, settings)
    classifier = new_classifier(num_features, train.num_classes, seed=settings.seed).to(settings.device)
    history: list[tuple[float, float]] = []

    def measure(epoch: int) -> None:
        counts = probe_counts(classifier, [(known.features, known.labels)])
        history.append((100 * float(counts.topk(1)), 100 * float(counts.topk(min(5, train.num_classes)))))
        if after_epoch is not None:
            after_epoch(epoch, history[-1][0])

    with torch.enable_grad():
        train_probe(
            classifier,
            frozen_features(backbone, loader.batches, precision=settings.precision),
            protocol,
            after_epoch=measure,
        )
    loader.close()
    best = max(range(len(history)), key=lambda epoch: history[epoch][0])
    return {
        "linear_top1": history[-1][0],
        "linear_top5": history[-1][1],
        "linear_best_top1": history[best][0],
        "linear_best_epoch": best + 1,
    }, classifier
