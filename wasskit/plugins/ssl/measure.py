"""What the commands on a pretrained model share: the model, its data, where results go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wasskit import console
from wasskit.data.base import ImageDataset
from wasskit.distributed.group import group
from wasskit.plugins.ssl.evaluation import Settings
from wasskit.plugins.ssl.network import Model
from wasskit.plugins.ssl.options import MeasureOptions
from wasskit.plugins.ssl.trained import KIND
from wasskit.trained.data import open_split
from wasskit.trained.files import data_root_of, results_folder
from wasskit.training.checkpoint import seed_all


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
        config = self.config
        found = open_split(
            self.model.description, name, dataset=self.dataset, root=self.data_root, download=config.download,
            corrupt=config.corrupt,
        )  # fmt: skip
        for note in found.notes:
            console.log(console.escape(note))
        return found

    @property
    def key(self) -> str:
        """The entry in ``evaluation.json``: the data set's name, and the checkpoint's where it is not the
        last."""
        return entry_key(self.config, self.dataset)


def entry_key(config: MeasureOptions, dataset: str) -> str:
    """The name of an entry in ``evaluation.json``."""
    best = config.checkpoint == "best" and config.model.suffix not in (".pt", ".safetensors")
    return f"{dataset}@best" if best else dataset


@contextlib.contextmanager
def measuring(config: MeasureOptions, *files: str) -> Iterator[Measurement]:
    """Join the ranks, choose the device, load the model.

    ``files``: what is written into the folder of results, with ``{key}`` for the entry's name; ``evaluation.json`` is
    added to and not replaced."""
    with group(config.device) as device:
        seed_all(config.seed)
        model = KIND.load(config.model, device, config.checkpoint)
        dataset = config.dataset or model.description["dataset"]
        yield Measurement(
            model,
            config,
            dataset,
            Settings(device, config.batch_size, config.workers, config.precision, config.seed),
            results_folder(
                config.model,
                config.output,
                plugin="ssl",
                claim=config.claim,
                files=[name.format(key=entry_key(config, dataset)) for name in files],
            ),
            config.data_root or data_root_of(config.model, dataset, plugin="ssl"),
        )
