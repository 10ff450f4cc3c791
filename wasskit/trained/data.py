"""Data as a trained model sees it: at the size and under the normalisation of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wasskit import console
from wasskit.data.base import ImageDataset, UnreadableImage, read_image
from wasskit.data.folder import load_folder
from wasskit.data.loaders import EvalLoader
from wasskit.data.registry import Corrupt, load_dataset
from wasskit.errors import UserError
from wasskit.trained.kind import Described, ModelKind

__all__ = ["fitted", "image_loader", "open_images", "open_split"]


def fitted(dataset: ImageDataset, description: Mapping[str, Any]) -> ImageDataset:
    """The data set under the model's own normalisation. Raises ``UserError`` where its images have other channels."""
    if dataset.channels != description["channels"]:
        raise UserError(
            f"{dataset.name} has images of {dataset.channels} channels, but the model was trained on "
            f"{description['channels']}: choose another --dataset."
        )
    dataset.mean, dataset.std = tuple(description["mean"]), tuple(description["std"])
    return dataset


def open_split(
    description: Mapping[str, Any],
    split: str,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    download: bool = False,
    corrupt: Corrupt = "refuse",
) -> ImageDataset:
    """A split of ``dataset`` (None: the model's own).

    Raises:
        UserError: the data set is missing, or its images do not have the model's channels.
    """
    found = load_dataset(
        dataset or description["dataset"],
        split,
        root=root,
        download=download,
        corrupt=corrupt,
        image_size=description["image_size"],
    )
    return fitted(found, description)


def open_images(
    path: Path, description: Mapping[str, Any], *, corrupt: Corrupt = "refuse", name: str = "imagefolder"
) -> ImageDataset:
    """The images of a folder, of a CSV of path,label, or one image file."""
    settings: dict[str, Any] = {key: description[key] for key in ("image_size", "channels", "mean", "std")}
    if path.is_file() and path.suffix.lower() != ".csv":
        try:
            read_image(path)
        except UnreadableImage as error:
            raise UserError(f"cannot read the image {error.bad}; name another file") from None
        return ImageDataset(name, "all", (), paths=[path], **settings)
    dataset = load_folder(path, corrupt=corrupt, name=name, **settings)
    for note in dataset.notes:
        console.log(console.escape(note))
    return dataset


def image_loader(
    kind: ModelKind[Any],
    model: Described,
    dataset: ImageDataset,
    device: torch.device | str,
    *,
    batch_size: int = 256,
    workers: int | None = None,
) -> EvalLoader:
    """Batches to embed."""
    transform = kind.transform(model.description, dataset)
    return EvalLoader(dataset, min(batch_size, len(dataset)), transform, device, workers)
