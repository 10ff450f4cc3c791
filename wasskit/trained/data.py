"""Images as a trained model sees them: at the size, under the normalisation and by the cropping of its training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wasskit import console
from wasskit.data.base import ImageDataset, UnreadableImage, read_image
from wasskit.data.catalog import CARDS
from wasskit.data.embeddings import is_embeddings
from wasskit.data.folder import load_folder
from wasskit.data.loaders import EvalLoader
from wasskit.data.registry import Corrupt, load_dataset
from wasskit.data.standard import LARGE
from wasskit.errors import UserError
from wasskit.evaluation.embedding import Embedder, Features, extract_features
from wasskit.trained.files import data_root_of, results_folder

if TYPE_CHECKING:
    from wasskit.trained.kind import Described
    from wasskit.trained.options import ModelDataOptions


def with_in_memory(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with ``in_memory``, which those of earlier versions lack.

    It is that of the data set: those of small images are held in memory, the others read from disk.
    """
    card = CARDS.get(str(description.get("dataset")))
    return {"in_memory": card is not None and card.image_size < LARGE, **description}


def fitted(dataset: ImageDataset, description: Mapping[str, Any]) -> ImageDataset:
    """The data set as the evaluation of the model's training would have prepared it.

    The images of a set in memory are whole, those of one on disk lose a margin: so do then the files that the model is
    given later.

    Raises:
        UserError: its images have other channels than the model's.
    """
    if dataset.channels != description["channels"]:
        raise UserError(
            f"{dataset.name} has images of {dataset.channels} channels, but the model was trained on "
            f"{description['channels']}: choose another --dataset."
        )
    return dataset.prepared_as(description["mean"], description["std"], margin=not description["in_memory"])


def results_of(config: ModelDataOptions, plugin: str, *files: str) -> Path:
    """The folder of the results of a command (`results_folder`), where it may write ``files``."""
    return results_folder(
        config.trained.model, config.output, plugin=plugin, refuse_existing=config.files.refuse_existing, files=files
    )


def open_split(model: Described, config: ModelDataOptions, split: str) -> ImageDataset:
    """A split of the data set that was asked for, the model's own otherwise.

    Raises:
        UserError: the data set is missing, or its images do not have the model's channels.
    """
    description = model.description
    found = load_dataset(
        config.dataset or description["dataset"],
        split,
        root=config.data.data_root or data_root_of(config.trained.model, config.dataset, plugin=description["kind"]),
        download=config.data.download,
        corrupt=config.data.corrupt,
        image_size=description["image_size"],
    )
    for note in found.notes:
        console.log_once(console.escape(note))
    return fitted(found, description)


def open_images(
    path: Path, description: Mapping[str, Any], *, corrupt: Corrupt = "refuse", name: str = "imagefolder"
) -> ImageDataset:
    """The images of a folder, of a CSV of path,label, or one image file."""
    shape = {key: description[key] for key in ("image_size", "channels")}
    if path.is_dir() or path.suffix.lower() == ".csv" or not path.is_file():
        return fitted(load_folder(path, corrupt=corrupt, name=name, **shape), description)
    if is_embeddings(path):
        raise UserError(f"{path} holds vectors, but the model embeds images: name images, or a model of vectors.")
    try:
        read_image(path)
    except UnreadableImage as error:
        raise UserError(f"cannot read the image {error.bad}; name another file") from None
    return fitted(ImageDataset(name, "all", (), paths=[path], **shape), description)


def embed_dataset(network: Embedder, config: ModelDataOptions, dataset: ImageDataset, device: torch.device) -> Features:
    """The embeddings (N, D) of all images and their labels, from one pass of the network, on every rank."""
    loader = EvalLoader(dataset, min(config.batch_size, len(dataset)), device=device, workers=config.data.workers)
    with contextlib.closing(loader):
        return extract_features(network, loader, precision=config.machine.precision)


def images_of(pixels: Tensor, description: Mapping[str, Any]) -> ImageDataset:
    """Images in memory, uint8 (N, C, H, W), prepared as files of the same pixels would be."""
    size, channels = description["image_size"], description["channels"]
    held = ImageDataset("images", "all", (), images=pixels)
    if not (description["in_memory"] and pixels.shape[2:] == (size, size)):
        held = ImageDataset("images", "all", (), reader=held.image, size=len(held), image_size=size, channels=channels)
    return fitted(held, description)
