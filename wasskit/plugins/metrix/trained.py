"""Trained models as they are found on disk, and data prepared for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wasskit import console
from wasskit.config import build
from wasskit.data.base import ImageDataset
from wasskit.data.metric_sets import MetricSplits
from wasskit.distributed.group import group
from wasskit.evaluation.embedding import Features
from wasskit.models.rebuild import is_count, is_text
from wasskit.plugins.metrix.data import parts_of_model
from wasskit.plugins.metrix.network import MetrixModel, build_model
from wasskit.plugins.metrix.options import ModelDataOptions
from wasskit.trained.data import embed_dataset
from wasskit.trained.files import data_root_of
from wasskit.trained.kind import ModelKind

KIND = ModelKind(
    name="metrix",
    build=build_model,
    weights=lambda model: model.network,
    embedder=lambda model: model.network,
    prefix="network.",
    rules={"pooling": is_text, "embedding_size": is_count},
)


def open_parts(model: MetrixModel, config: ModelDataOptions) -> MetricSplits:
    """The parts of the data set that was asked for (the model's own otherwise), as the model sees them.

    Raises ``UserError`` where the data set is missing, or its images do not have the model's channels.
    """
    root = config.data.data_root or data_root_of(config.trained.model, config.dataset, plugin=KIND.name)
    return parts_of_model(model.description, dataset=config.dataset, root=root, corrupt=config.data.corrupt)


def embed_images(model: MetrixModel, config: ModelDataOptions, dataset: ImageDataset, device: torch.device) -> Features:
    """Unit embeddings (N, D) of all images and their labels, from one pass of the network, on every rank."""
    for note in dataset.notes:
        console.log(console.escape(note))
    return embed_dataset(model.network, config, dataset, device)


def test_embeddings(run: Path, device: str) -> Tensor:
    """Unit embeddings (N, m) float32 of the test images, whose classes the model has not seen.

    Raises ``UserError`` where the model or its data set is missing.
    """
    config = build(ModelDataOptions, {"model": run, "device": device})
    with group(device) as place:
        model = KIND.load(run, place)
        return embed_images(model, config, open_parts(model, config).test, place).features.cpu()
