"""What the commands on a pretrained model share: the model, its data, where results go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from wasskit import console
from wasskit.data.base import ImageDataset
from wasskit.data.registry import load_dataset
from wasskit.distributed.group import group
from wasskit.errors import UserError
from wasskit.plugins.ssl.evaluation import Settings
from wasskit.plugins.ssl.network import Model, load_model
from wasskit.plugins.ssl.options import MeasureOptions, ModelArgument
from wasskit.training.checkpoint import seed_all
from wasskit.training.trained import data_root_of, results_folder


@dataclass(frozen=True)
class Measurement:
    """A model, the name of the data set, and where and how to measure."""

    model: Model
    config: MeasureOptions
    dataset: str
    settings: Settings
    folder: Path
    data_root: Path | None = None
    _loaded: dict[str, ImageDataset] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> ImageDataset:
        """A split of the data set, at the size and with the normalisation the model was trained with; read once."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> ImageDataset:
        config, description = self.config, self.model.description
        found = load_dataset(
            self.dataset, name, root=self.data_root, download=config.download, corrupt=config.corrupt,
            image_size=description["image_size"],
        )  # fmt: skip
        return fitted(found, self.model)

    @property
    def key(self) -> str:
        """The entry in ``evaluation.json``: the data set's name, and the checkpoint's where it is not the
        last."""
        return entry_key(self.config, self.dataset)


def entry_key(config: MeasureOptions, dataset: str) -> str:
    """The name of an entry in ``evaluation.json``."""
    best = config.checkpoint == "best" and config.run.suffix not in (".pt", ".safetensors")
    return f"{dataset}@best" if best else dataset


@contextlib.contextmanager
def measuring(config: MeasureOptions, *files: str) -> Iterator[Measurement]:
    """Join the ranks, choose the device, load the model.

    ``files``: what is written into the folder of results, with ``{key}`` for the entry's name; ``evaluation.json`` is
    added to and not replaced."""
    with group(config.device) as device:
        seed_all(config.seed)
        model = load_model(config.run, device, config.checkpoint)
        dataset = config.dataset or model.description["dataset"]
        yield Measurement(
            model,
            config,
            dataset,
            settings_of(config, device, config.seed),
            results_folder(
                config.run,
                config.output,
                plugin="ssl",
                claim=config.claim,
                files=[name.format(key=entry_key(config, dataset)) for name in files],
            ),
            config.data_root or data_root_of(config.run, dataset, plugin="ssl"),
        )


def settings_of(config: ModelArgument, device: torch.device, seed: int = 0) -> Settings:
    return Settings(device, config.batch_size, config.workers, config.precision, seed)


def fitted(dataset: ImageDataset, model: Model) -> ImageDataset:
    """The data set under the model's own normalisation. Raises ``UserError`` where its images have other
    channels."""
    description = model.description
    if dataset.channels != description["channels"]:
        raise UserError(
            f"{dataset.name} has images of {dataset.channels} channels, the model was trained on "
            f"{description['channels']}: choose another --dataset."
        )
    for note in dataset.notes:
        console.log(console.escape(note))
    return replace(dataset, mean=description["mean"], std=description["std"])
