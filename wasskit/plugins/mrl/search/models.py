"""The model that an index remembers: what turns vectors (an adaptor) or images into the vectors that are searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wasskit.data.embeddings import Embeddings
from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.plugins.mrl.search.storage import Change
from wasskit.plugins.mrl.trained import KINDS
from wasskit.trained.data import open_images
from wasskit.trained.kind import TrainedModel, load_model


@dataclass(frozen=True)
class Encoder:
    """A trained model of ``mrl adapt``, which takes vectors, or of ``mrl train`` or ``mrl baseline``, on images."""

    trained: TrainedModel[Any]
    source: str

    @classmethod
    def open(cls, path: Path, device: torch.device | str = "cpu") -> Encoder:
        """From a run directory, a checkpoint or exported weights. Raises ``UserError`` where there is no such model."""
        return cls(load_model(KINDS, path, device), str(path))

    @property
    def takes_images(self) -> bool:
        return self.trained.kind.takes_images

    @property
    def width(self) -> int:
        """Numbers of the vectors that it gives."""
        return int(self.trained.description["dims"][-1])

    def save(self, change: Change, name: str) -> str:
        """Keep it with the index, which then depends on no run."""
        save_weights(change.folder / name, self.trained.kind.weights(self.trained.model), self.trained.description)
        return name

    def vectors(self, x: Tensor, where: str) -> Tensor:
        """The vectors (N, m) float32 of those (N, D) that are searched among or for.

        A model on images leaves them as they are: they are taken for embeddings that it has made.

        Raises:
            UserError: they are of another width than it takes, or makes.
        """
        if self.takes_images:
            wanted = self.width
        else:
            (wanted,) = self.trained.kind.input_shape(self.trained.description)
        if x.shape[1] != wanted:
            role = "makes" if self.takes_images else "takes"
            raise UserError(f"{where} has vectors of {x.shape[1]} numbers; the model {self.source} {role} {wanted}.")
        return x if self.takes_images else self.trained.embed(x, batch_size=8192).cpu()

    def images(self, path: Path) -> tuple[Embeddings, list[str]]:
        """The embeddings of an image, a folder of images or a CSV of path,label, and the path of each.

        Raises:
            UserError: there are none, or the model takes vectors.
        """
        if not self.takes_images:
            raise UserError(f"{path} is no file of embeddings, which the adaptor {self.source} takes.")
        dataset = open_images(path, self.trained.description)
        return Embeddings(str(path), self.trained.embed(path).cpu()), [str(name) for name in dataset.paths or []]
