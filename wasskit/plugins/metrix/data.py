"""The parts of a data set as `wasskit metrix` uses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wasskit.data.base import ImageDataset
from wasskit.data.decode import to_memory
from wasskit.data.loaders import TrainLoader
from wasskit.data.metric_sets import MetricSplits, load_metric_splits
from wasskit.data.registry import Corrupt
from wasskit.data.samplers import ClassBalancedSampler
from wasskit.data.standard import train_transform
from wasskit.data.transforms import Augment, Normalise, PerImage
from wasskit.data.views import ViewDistribution, random_views
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.trained.data import fitted


def augmentation(dataset: ImageDataset, min_crop: float) -> Augment | PerImage:
    """Random resized crop and flip; for grey images in memory (characters) the small affine map of their kind."""
    if dataset.in_memory and dataset.channels == 1:
        return train_transform(dataset)
    if dataset.in_batches:
        return random_views(dataset, ViewDistribution(scale=(min_crop, 1.0)).geometry())
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(dataset.image_size, scale=(min_crop, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    return PerImage(pipeline, finish=Normalise(dataset.mean, dataset.std))


def load_parts(config: TrainingOptions) -> MetricSplits:
    """Training, validation and test parts of the run's data set."""
    data = config.data
    parts = load_metric_splits(
        data.dataset,
        root=data.data_root,
        validation=config.validation,
        corrupt=data.corrupt,
        seed=config.run.seed,
        image_size=data.image_size,
    )
    return decoded(parts, data.corrupt) if config.in_memory else parts


def decoded(parts: MetricSplits, corrupt: str) -> MetricSplits:
    """The parts with every image decoded to a square in memory."""
    fields = {field.name: getattr(parts, field.name) for field in dataclasses.fields(parts)}
    held = {
        name: part if part is None or part.in_memory else to_memory(part, corrupt=corrupt)
        for name, part in fields.items()
    }
    return MetricSplits(**held)


def train_loader(config: TrainingOptions, train: ImageDataset, device: torch.device) -> TrainLoader:
    """Random batches, or class-balanced ones with ``images_per_class``."""
    sampler = None
    if config.images_per_class is not None:
        sampler = ClassBalancedSampler(train.labels, config.loop.batch_size, config.images_per_class, config.run.seed)
    return TrainLoader(
        train,
        config.loop.batch_size,
        augmentation(train, config.min_crop),
        device=device,
        seed=config.run.seed,
        workers=config.data.workers,
        sampler=sampler,
    )


def parts_of_model(
    description: Mapping[str, Any], *, dataset: str | None, root: Path | None, corrupt: Corrupt
) -> MetricSplits:
    """The parts that a trained model is measured on: those of its training, or of another data set as it sees them.

    Training classes that the model has not learned from are its validation part.
    """
    name = dataset or str(description["dataset"])
    parts = load_metric_splits(name, root=root, corrupt=corrupt, image_size=int(description["image_size"]))
    train, val = parts.train, None
    learned = set(description["classes"])
    kept = [number for number, label in enumerate(train.classes) if label in learned]
    if name == description["dataset"] and 0 < len(kept) < len(train.classes):
        rest = [number for number in range(len(train.classes)) if number not in set(kept)]
        train, val = train.select_classes(kept), train.select_classes(rest)
    val, gallery = (None if part is None else fitted(part, description) for part in (val, parts.gallery))
    return MetricSplits(fitted(train, description), val, fitted(parts.test, description), gallery)
