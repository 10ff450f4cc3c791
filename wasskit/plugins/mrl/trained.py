"""Trained models as they are found on disk, and data prepared for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import EvalLoader
from wasskit.data.registry import load_dataset
from wasskit.errors import UserError
from wasskit.evaluation.embedding import Features, extract_features
from wasskit.models.rebuild import are_counts, check_description, rebuild
from wasskit.plugins.mrl.network import KIND, Model, build_model
from wasskit.plugins.mrl.options import ModelDataOptions
from wasskit.training.run import RunDirectory
from wasskit.training.trained import data_root_of, is_exported, read_model


def load_model(
    path: Path, device: torch.device | str = "cpu", checkpoint: Literal["last", "best"] = "last"
) -> Model:
    """A trained model in evaluation mode, from a run directory, one of its checkpoints, or exported weights.

    Raises:
        UserError: there is nothing of ours at ``path``, or it is damaged.
    """
    if not is_exported(path) and (run := RunDirectory.find(path, plugin=KIND)[0]).command != "mrl train":
        raise UserError(f"{path} is a folder of runs (`wasskit {run.command}`): name one of the runs in it.")
    state, description, file = read_model(path, KIND, checkpoint)
    description = check_description(
        description,
        file,
        dims=are_counts,
        tied=lambda value: isinstance(value, bool),
        embedding=lambda value: value in ("linear", "identity"),
    )

    def parts(model: Model) -> nn.Module:
        return nn.ModuleDict({"network": model.network, "objective": model.objective})

    model = rebuild(lambda: build_model(description), parts, state, file)
    parts(model).to(device).eval()
    return model


def open_split(model: Model, config: ModelDataOptions, split: str) -> ImageDataset:
    """A split of the data set that was asked for (the model's own otherwise), at the model's size and
    normalisation.

    Raises:
        UserError: the data set is missing, or its images do not have the model's channels.
    """
    described = model.description
    dataset = load_dataset(
        config.dataset or described["dataset"],
        split,
        root=config.data_root or data_root_of(config.model, config.dataset, plugin="mrl"),
        download=config.download,
        corrupt=config.corrupt,
        image_size=described["image_size"],
    )
    if dataset.channels != described["channels"]:
        raise UserError(
            f"{dataset.name} has images of {dataset.channels} channels, but {config.model} was trained on "
            f"{described['channels']}."
        )
    return replace(dataset, mean=described["mean"], std=described["std"])


def embed_split(
    model: Model, config: ModelDataOptions, dataset: ImageDataset, device: torch.device
) -> Features:
    """Normalised embeddings (N, D) of a whole split, from one pass of the network, on every rank."""
    loader = EvalLoader(dataset, min(config.batch_size, len(dataset)), device=device, workers=config.workers)
    precision: Literal["bf16", "float32"] = "bf16" if config.precision == "bf16" else "float32"
    try:
        return extract_features(model.network.normalised, loader, precision=precision)
    finally:
        loader.close()


def labels_of(features: Features, dataset: ImageDataset) -> Tensor:
    """The labels of a split, or ``UserError`` if it has none."""
    if dataset.labels is None or bool((features.labels < 0).any()):
        raise UserError(
            f"{dataset.name}/{dataset.split} has images without a label: choose a labelled split."
        )
    return features.labels
