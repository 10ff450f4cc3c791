"""One fold's model: trained on the classes that are kept, its best epoch chosen by those that are held out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import EvalLoader
from wasskit.data.metric_sets import MetricSplits
from wasskit.evaluation.embedding import Features, extract_features
from wasskit.models.heads import LinearEmbedding
from wasskit.plugins.metrix.crossval.frozen import (
    CachedBatch,
    CachedPart,
    CachedSource,
    as_trained,
    cached,
    weights_digest,
)
from wasskit.plugins.metrix.crossval.plan import Fold
from wasskit.plugins.metrix.crossval.scores import score
from wasskit.plugins.metrix.data import train_loader
from wasskit.plugins.metrix.measure import raw_pixels
from wasskit.plugins.metrix.network import MetricNetwork, MetrixModel
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.plugins.metrix.task import MetrixTask, build_network
from wasskit.system.transfer import to_device
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import seed_all
from wasskit.training.stepper import Updates
from wasskit.training.task import Progress, Source
from wasskit.training.trainer import Trainer


@dataclass(frozen=True)
class FoldModel:
    """``epoch`` (from 1; 0: untrained) is best by ``validation``, its scores on the held classes; ``embeddings`` are
    those of "test", and of "gallery" where there is one, (N, D) float32 on the host, of the weights of that epoch."""

    epoch: int
    validation: Mapping[str, float]
    embeddings: Mapping[str, Tensor]


class Trunk(Protocol):
    """How fold models are trained: whole networks on images, or heads on what a frozen trunk has made of them."""

    def train(self, config: TrainingOptions, fold: Fold, *, test: bool) -> FoldModel:
        """Train a model; ``test``: also embed the test part."""
        ...

    def untrained(self, plan: Sequence[Fold]) -> FoldModel | None:
        """Test embeddings without any training, a frozen trunk's or raw pixels, and the mean of their scores on the
        held classes of each fold; None where there are none."""
        ...


class FoldTask(MetrixTask):
    """Keeps the weights of the epoch that is best by MAP@R of ``validate(network)``."""

    def __init__(self, model: MetrixModel, config: TrainingOptions, validate: Callable[[nn.Module], Features]) -> None:
        super().__init__(model, config, {})
        self.monitor = None
        self.validate = validate
        self.best_epoch = 0
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        found = self.validate(self.network)
        values = score(found.features, found.labels)
        if not self.best or values["map@r"] > self.best["map@r"]:
            self.best_epoch, self.best = progress.epoch, values
            self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return {"val": values}

    def fitted(self, source: Source, device: torch.device) -> FoldTask:
        """Train; afterwards the network has the weights of the best epoch and is in evaluation mode."""
        config = self.config
        updates = Updates(clip_norm=config.optim.clip_norm, clip_value=config.clip_value)
        # Losses are checked before each evaluation; no logs are read in between.
        cadence = Cadence(epochs=config.loop.epochs, log_every=2**31)
        Trainer(
            self, source, cadence=cadence, updates=updates, device=device, channels_last=True, seed=config.run.seed
        ).fit()
        self.network.load_state_dict(self.best_weights)
        self.network.eval()
        return self


class TrainedTrunk:
    """Whole networks, trained on augmented images."""

    def __init__(self, parts: MetricSplits, workers: int | None, device: torch.device) -> None:
        self.parts, self.workers, self.device = parts, workers, device

    def train(self, config: TrainingOptions, fold: Fold, *, test: bool) -> FoldModel:
        seed_all(config.run.seed)
        train, held = (self.parts.train.select_classes(classes) for classes in (fold.kept, fold.held))
        wanted = {"test": self.parts.test, "gallery": self.parts.gallery} if test else {}
        loaders = {
            name: EvalLoader(part, min(256, len(part)), device=self.device, workers=self.workers)
            for name, part in {"held": held, **wanted}.items()
            if part is not None
        }
        source = train_loader(config, train, self.device)
        try:
            task = FoldTask(build_network(config, train), config, lambda net: extract_features(net, loaders["held"]))
            task.fitted(source, self.device)
            embeddings = {
                name: extract_features(task.network, loader).features.cpu()
                for name, loader in loaders.items()
                if name != "held"
            }
        finally:
            source.close()
            for loader in loaders.values():
                loader.close()
        return FoldModel(task.best_epoch, task.best, embeddings)

    def untrained(self, plan: Sequence[Fold]) -> FoldModel | None:
        named = {"train": self.parts.train, "test": self.parts.test, "gallery": self.parts.gallery}
        found = {name: raw_pixels(part, self.device) for name, part in named.items() if part is not None}
        pixels = {name: features for name, features in found.items() if features is not None}
        if len(pixels) < len(found):
            return None
        train = pixels.pop("train")
        held = [_of_classes(train.labels.cpu(), fold.held) for fold in plan]
        validation = _mean_scores([(train.features[to_device(rows, self.device)], labels) for rows, labels in held])
        return FoldModel(0, validation, {name: features.features.cpu() for name, features in pixels.items()})


class HeadNetwork(nn.Module):
    """Pooled features (B, C) to unit embeddings (B, dim): the head of a :class:`MetricNetwork` alone."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.trunk = nn.Identity()
        self.head = LinearEmbedding(width, dim, kaiming=True)

    project = MetricNetwork.project

    @torch.no_grad()
    def start_at(self, axes: Tensor) -> None:
        """Take ``axes`` (n, width) as the first rows of the head. Others stay random, but small: a row of zeros would
        get no gradient from cosines."""
        self.head.weight.mul_(1e-2)
        self.head.weight[: len(axes)] = axes[: len(self.head.weight)]

    def forward(self, pooled: Tensor) -> Tensor:
        embeddings: Tensor = self.head(pooled)
        return embeddings


class HeadTask(FoldTask):
    """Trains a head. Mixtures of images pass the frozen ``trunk`` anew, without gradients; maps are those kept."""

    def __init__(self, *arguments: Any, trunk: MetricNetwork) -> None:
        super().__init__(*arguments)
        # In a tuple, so that it is no part of the task: it has neither gradients nor a state that changes.
        self._trunk = (trunk,)

    def embedded(self, batch: CachedBatch) -> tuple[Tensor, dict[str, Any]]:
        return self.network(batch.pooled), {
            "maps": batch.maps, "head": self.network.project, "images": batch.images, "network": self._of_images,
        }  # fmt: skip

    def _of_images(self, images: Tensor) -> Tensor:
        trunk = self._trunk[0]
        with torch.no_grad():
            pooled = trunk.trunk.backbone(images) if trunk.pooling == "own" else trunk.pool(trunk.trunk(images))
        embeddings: Tensor = self.network(pooled)
        return embeddings


class FrozenTrunk:
    """Heads on the features of a pretrained trunk, which are computed once and kept in ``folder``.

    A head starts at the principal axes of the features that it is trained on, so that before it has learned anything it
    scores nearly what the features do; a random start is a random projection, which costs more than a loss gains.
    """

    def __init__(
        self, parts: MetricSplits, config: TrainingOptions, folder: Path, modes: Collection[str], device: torch.device
    ) -> None:
        model = build_network(config, parts.train)
        self.network, self.description, self.device = model.network.to(device).eval(), model.description, device
        self.network.requires_grad_(False)
        digest = weights_digest(self.network.trunk)

        def through(part: ImageDataset, *wanted: str) -> CachedPart:
            return cached(
                as_trained(part, self.network), self.network, folder, wanted=wanted, digest=digest, device=device,
                workers=config.data.workers,
            )  # fmt: skip

        needs = {"feature": "maps", "input": "images"}
        self.part = through(parts.train, *(needs[mode] for mode in modes if mode in needs))
        others = {"test": parts.test, "gallery": parts.gallery}
        self.others = {name: through(part).pooled for name, part in others.items() if part is not None}
        self._axes: dict[tuple[int, ...], Tensor] = {}

    def train(self, config: TrainingOptions, fold: Fold, *, test: bool) -> FoldModel:
        seed_all(config.run.seed)
        (rows, labels), (held, held_labels) = (_of_classes(self.part.labels, each) for each in (fold.kept, fold.held))
        description = self.description | {"classes": [self.description["classes"][number] for number in fold.kept]}
        head = HeadNetwork(self.part.pooled.shape[1], int(description["embedding_size"]))
        head.start_at(self._principal_axes(fold, rows))
        pooled = self.part.pooled[to_device(held, self.device)]
        task = HeadTask(
            MetrixModel(cast(MetricNetwork, head), description), config,
            lambda net: Features(net(pooled), held_labels, held), trunk=self.network,
        )  # fmt: skip
        mode = config.method.mode
        part = replace(
            self.part, maps=self.part.maps if mode == "feature" else None,
            images=self.part.images if mode == "input" else None,
        )  # fmt: skip
        task.fitted(CachedSource(part, rows, labels, config, self.device), self.device)
        with torch.no_grad():
            embeddings = {name: task.network(x).cpu() for name, x in self.others.items()} if test else {}
        return FoldModel(task.best_epoch, task.best, embeddings)

    def _principal_axes(self, fold: Fold, rows: Tensor) -> Tensor:
        """Unit vectors (min(n, C), C): the right singular vectors of the unit features of the ``rows`` (n,), largest
        first. Every loss and mode asks for the same ones."""
        key = tuple(fold.kept)
        if key not in self._axes:
            features = F.normalize(self.part.pooled[to_device(rows, self.device)], dim=1)
            self._axes[key] = torch.linalg.svd(features.cpu(), full_matrices=False).Vh
        return self._axes[key]

    def untrained(self, plan: Sequence[Fold]) -> FoldModel | None:
        held = [_of_classes(self.part.labels, fold.held) for fold in plan]
        validation = _mean_scores([(self.part.pooled[to_device(rows, self.device)], labels) for rows, labels in held])
        return FoldModel(0, validation, {name: pooled.cpu() for name, pooled in self.others.items()})


def _mean_scores(folds: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The means of the scores of embeddings (n, D) with labels (n,)."""
    scores = [score(embeddings, labels) for embeddings, labels in folds]
    return {name: statistics.fmean(each[name] for each in scores) for name in scores[0]}


def _of_classes(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows (n,) of these classes, ascending, and their labels (n,), numbered in the order of ``classes``."""
    table = torch.full((int(labels.max()) + 1,), -1)
    table[list(classes)] = torch.arange(len(classes))
    numbered = table[labels]
    rows = torch.nonzero(numbered >= 0)[:, 0]
    return rows, numbered[rows]
