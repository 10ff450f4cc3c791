"""The training task: one network, one metric loss of clean and of mixed pairs, recall on unseen classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import Batch, EvalLoader
from wasskit.data.metric_sets import MetricSplits
from wasskit.data.seeds import derive_seed
from wasskit.distributed.group import world_size
from wasskit.errors import UserError
from wasskit.evaluation.embedding import extract_features
from wasskit.plugins.metrix.losses import parse_settings
from wasskit.plugins.metrix.measure import MAP_LIMIT, retrieval_percent
from wasskit.plugins.metrix.network import MetrixModel, build_model, describe, gives_maps
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.plugins.metrix.pairs import KINDS
from wasskit.trained.files import checkpoint_entry
from wasskit.training.optim import build_optimizer
from wasskit.training.schedules import step_decay, warmup
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Task


class MetrixTask(Task):
    """Trains a :class:`MetrixModel`. ``loaders`` evaluate: "test", and where there are any "val" and "gallery"."""

    def __init__(self, model: MetrixModel, config: TrainingOptions, loaders: Mapping[str, EvalLoader]) -> None:
        super().__init__()
        self.network = model.network
        self.model = model
        self.config = config
        self.loaders = dict(loaders)
        method = config.method
        self.objective = MetrixLoss(
            method.loss,
            method.mode,
            weight=method.mix_weight,
            alpha=method.alpha,
            num_classes=len(model.description["classes"]),
            embedding_dim=int(model.description["embedding_size"]),
            kinds=KINDS if method.pairs == "both" else (method.pairs,),
            hardest=method.hardest,
            max_triples=method.max_triples,
            published=method.published,
            distance=method.distance,
            margin=method.margin,
            similarity_scales=_three(method.similarity_scales),
            proxy_scales=_two(method.proxy_scales),
            settings=parse_settings(method.loss_settings),
        )
        self.monitor = "val/recall@1" if "val" in loaders else "test/recall@1"
        self.skipped: dict[str, int] = {}

    def networks(self) -> list[nn.Module]:
        return [self.network.trunk]

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        config, optim = self.config, self.config.optim
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        proxies = list(self.objective.parameters())
        if proxies:
            groups.append({"params": proxies, "lr": optim.lr * config.proxy_lr_factor})
        optimizer = build_optimizer(
            optim.optimizer, groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
        decay = step_decay(config.decay_epochs * plan.steps_per_epoch, config.lr_decay_gamma)
        return [Optimisation(optimizer, warmup(optim.warmup_epochs * plan.steps_per_epoch, decay))]

    def start_epoch(self, progress: Progress) -> None:
        self.network.trunk.requires_grad_(progress.epoch >= self.config.head_epochs)

    def embedded(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """The embeddings (B, D) of a batch, and what the objective mixes them from, as its keywords."""
        maps, embeddings = self.network.maps_and_embeddings(batch.images)
        return embeddings, {"maps": maps, "head": self.network.project, "images": batch.images, "network": self.network}

    def losses(self, batch: Batch, progress: Progress) -> Losses:
        embeddings, sources = self.embedded(batch)
        terms = self.objective(
            embeddings,
            batch.host_labels,
            **sources,
            # A function of the step alone: equal on all ranks, and when a run resumes.
            rng=np.random.default_rng(derive_seed(self.config.run.seed, "mixing", progress.step)),
        )
        if self.config.method.mode == "baseline":
            return Losses(terms.total, {"clean": terms.clean})
        if terms.skipped:
            self.skipped[terms.skipped] = self.skipped.get(terms.skipped, 0) + 1
        return Losses(
            terms.total,
            {
                "clean": terms.clean,
                "mixed": terms.mixed,
                "triples": float(terms.triples),
                "skipped": float(bool(terms.skipped)),
            },
        )

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        features = {
            name: extract_features(self.network, loader, precision=self.precision)
            for name, loader in self.loaders.items()
        }
        gallery = features.pop("gallery", None)
        results = {}
        for split, queries in features.items():
            searched = gallery if split == "test" else None
            size = len(queries.labels) * len((searched or queries).labels)
            results[split] = retrieval_percent(queries, searched, self.config.recalls, map_r=size <= MAP_LIMIT)
        return results

    def extra_state(self) -> dict[str, Any]:
        return {**checkpoint_entry(self.model.description), "skipped": dict(self.skipped)}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.skipped = dict(state["skipped"])


def build_network(config: TrainingOptions, train: ImageDataset) -> MetrixModel:
    """The model of a configuration: ``tiny`` for images up to 64 pixels, ResNet-50 for larger ones, unless named."""
    description = describe(config, train)
    shape = {"image_size": train.image_size, "channels": train.channels}
    if not gives_maps(description["backbone"], **shape):
        if config.method.mode == "feature":
            raise UserError(
                f"--mode feature: {description['backbone']} ends in tokens, not in feature maps; choose a "
                "convolutional --backbone, or --mode embed or input."
            )
        description["pooling"] = "own"
    return build_model(
        description,
        freeze_batch_norm=config.method.freeze_batch_norm,
        pretrained=config.model.pretrained,
        weights=config.model.weights,
        download=config.data.download,
    )


def build_task(config: TrainingOptions, parts: MetricSplits, device: torch.device) -> MetrixTask:
    """The task of a configuration."""
    model = build_network(config, parts.train)
    if world_size() > 1 and not config.method.freeze_batch_norm:
        from wasskit.distributed.norm import convert_sync_batchnorm

        convert_sync_batchnorm(model.network)
    names = {"test": parts.test, "val": parts.val, "gallery": parts.gallery}
    loaders = {
        name: EvalLoader(
            part, min(max(config.loop.batch_size, 256), len(part)), device=device, workers=config.data.workers
        )
        for name, part in names.items()
        if part is not None
    }
    return MetrixTask(model, config, loaders)


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    a, b, c = values
    return a, b, c


def _two(values: tuple[float, ...]) -> tuple[float, float]:
    a, b = values
    return a, b
