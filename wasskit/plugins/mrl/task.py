"""The training task: one objective, one optimiser, evaluation at every dimension."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from wasskit.data.base import ImageDataset
from wasskit.data.catalog import CARDS
from wasskit.data.loaders import Batch, EvalLoader
from wasskit.distributed.norm import convert_sync_batchnorm, joint_norm
from wasskit.evaluation.accuracy import RankCounts
from wasskit.evaluation.embedding import LabelledImages, encode_batches
from wasskit.models.backbones import build_backbone
from wasskit.ot.precision import Precision
from wasskit.plugins.mrl.evaluation import rank_metrics
from wasskit.plugins.mrl.network import LARGE, MrlModel, build_model, describe
from wasskit.plugins.mrl.options import TrainingOptions
from wasskit.trained.files import checkpoint_entry
from wasskit.trained.kind import backbone_name
from wasskit.training.optim import build_optimizer, parameter_groups
from wasskit.training.schedules import cosine, warmup
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Task


class MatryoshkaTask(Task):
    """Trains a :class:`MrlModel`; its ``test/top1`` is the mean over the dimensions, as published."""

    monitor = "test/top1"

    def __init__(self, model: MrlModel, config: TrainingOptions, test: Iterable[LabelledImages]) -> None:
        super().__init__()
        self.network = model.network
        self.objective = model.objective
        self.model = model
        self.config = config
        self.test = test

    def networks(self) -> list[nn.Module]:
        return [self.network]

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        optim = self.config.optim
        groups = parameter_groups(self, lr=optim.lr, weight_decay=optim.weight_decay)
        optimizer = build_optimizer(optim.optimizer, groups, lr=optim.lr, momentum=optim.momentum)
        return [Optimisation(optimizer, published_schedule(plan, optim.warmup_epochs))]

    def losses(self, batch: Batch, progress: Progress) -> Losses:
        losses = self.objective(self.network(batch.images), batch.labels)
        terms = {f"ce@{d}": ce for d, ce in zip(self.objective.dims, losses.cross_entropy, strict=True)}
        terms["ce"] = losses.cross_entropy.mean()
        if self.objective.wasserstein_weight != 0:
            terms["wasserstein"] = losses.wasserstein
        return Losses(losses.total, terms)

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {"test": classification_metrics(self.model, self.test, self.precision)}

    def extra_state(self) -> dict[str, Any]:
        return checkpoint_entry(self.model.description)


def published_schedule(plan: Plan, warmup_epochs: int = 0) -> Any:
    """Factor of the learning rate: ``0.01 + 0.99 (1 + cos(pi e / T)) / 2`` at epoch e of T, after a warm-up."""
    steps = warmup_epochs * plan.steps_per_epoch
    if steps >= plan.total_steps:
        return warmup(plan.total_steps, lambda step: 1.0)
    return warmup(steps, cosine(plan.total_steps - steps, end=0.01, every=plan.steps_per_epoch))


def classification_metrics(
    model: MrlModel, loader: Iterable[LabelledImages], precision: Precision = "fp32"
) -> dict[str, float]:
    """Top-1, top-5 and mAP@10 at each dimension from one pass over a loader, each rank taking its share.

    The prefixes are normalised as in training. See :func:`wasskit.plugins.mrl.evaluation.rank_metrics`.
    """
    counts = RankCounts((len(model.dims),), depth=10, device=model.objective.ce_weights.device)
    for embeddings, labels, _ in encode_batches(model.network, loader, precision=precision):
        with torch.no_grad():
            counts.update(model.objective.logits(embeddings), labels)
    return rank_metrics(counts.reduce(), model.dims)


def backbone_width(config: TrainingOptions) -> int:
    """The number of features of the configuration's backbone, without reading the data set."""
    card = CARDS[config.data.dataset]
    size = config.data.image_size or card.image_size
    return _width(backbone_name(config.model, size, LARGE), size, card.channels, config.model.stem)


@functools.lru_cache
def _width(backbone: str, image_size: int, channels: int, stem: str) -> int:
    return build_backbone(backbone, image_size=image_size, channels=channels, stem=stem).num_features


def build_task(
    config: TrainingOptions, train: ImageDataset, test: ImageDataset, device: torch.device
) -> MatryoshkaTask:
    """The task of a configuration, its network untrained or with the weights that were asked for."""
    description = describe(config, train)
    method = config.method
    objective: Mapping[str, Any] = {
        "alpha": method.alpha,
        "wasserstein_weight": method.wasserstein_weight,
        "beta": method.beta,
        "blur": method.blur,
        "sinkhorn": method.sinkhorn,
        "wasserstein_points": method.wasserstein_points,
        "label_smoothing": method.label_smoothing,
        "ce_weights": method.ce_weights,
    }
    model = build_model(
        description,
        objective,
        pretrained=config.model.pretrained,
        weights=config.model.weights,
        download=config.data.download,
    )
    if joint_norm(config.sync_bn):
        convert_sync_batchnorm(model.network)
    batch_size = min(max(config.loop.batch_size, 256), len(test))
    loader = EvalLoader(test, batch_size, device=device, workers=config.data.workers)
    return MatryoshkaTask(model, config, loader)
