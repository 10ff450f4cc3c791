"""Embeddings from files where a command takes a trained model: their options, and the files opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from wasskit.candidates import complete_local_paths, complete_models_or_vectors
from wasskit.config import OptionGroup, argument, option
from wasskit.errors import UserError
from wasskit.trained.options import ModelArgument

if TYPE_CHECKING:
    import torch

    from wasskit.evaluation.embedding import Features
    from wasskit.trained.options import ModelDataOptions

FILES = ".npy, .npz:KEY, .safetensors:KEY, .parquet:COLUMN, .csv"


@dataclass(frozen=True, kw_only=True)
class ModelOrFile(ModelArgument):
    """The trained model whose embeddings are measured, or a file of embeddings."""

    model: Path = argument(
        help=f"Run directory, checkpoint (.pt), exported weights (.safetensors); or embeddings ({FILES}).",
        complete=complete_models_or_vectors, metavar="MODEL|FILE",
    )  # fmt: skip


def vector_file(help: str, *, without: str = "none") -> Any:
    """An option that names a file of embeddings or of labels."""
    return option(None, help=help, panel="Data", complete=complete_local_paths, show_default=without)


@dataclass(frozen=True, kw_only=True)
class FileOptions(OptionGroup):
    """Labels of embeddings from a file; mixed into the options of a command on a model."""

    needs_second: ClassVar[bool] = False
    """Whether the command measures nothing of one file alone."""

    labels: Path | None = vector_file("Labels of a file of embeddings (.npy, .csv:COLUMN, .parquet:COLUMN, .txt).")

    def others(self) -> tuple[str, Path | None, Path | None]:
        """The second file of embeddings, by its flag's name, and its labels."""
        raise NotImplementedError

    @property
    def labels_needed(self) -> bool:
        """Whether every file of embeddings needs labels."""
        return True

    @property
    def from_file(self) -> bool:
        """Whether the embeddings are those of a file."""
        from wasskit.data.embeddings import is_embeddings

        return is_embeddings(cast("ModelDataOptions", self).trained.model)

    def validate(self) -> None:
        super().validate()
        name, path, labels = self.others()
        model, dataset = cast("ModelDataOptions", self).trained.model, cast("ModelDataOptions", self).dataset
        if not self.from_file:
            given = [f for f, value in (("labels", self.labels), (name, path), (f"{name}-labels", labels)) if value]
            if given:
                raise UserError(f"--{given[0]} belongs to a file of embeddings, which {model} is not ({FILES}).")
        elif self.labels is None and self.labels_needed:
            raise UserError(f"{model} is a file of embeddings: give their labels by --labels.")
        elif path is None and self.needs_second:
            raise UserError(f"{model} is a file of embeddings: give --{name} and --{name}-labels too.")
        elif (path is None) != (labels is None) and (path is None or self.labels_needed):
            raise UserError(f"--{name} and --{name}-labels belong together: give both.")
        elif dataset is not None:
            raise UserError(f"--dataset belongs to a model: {model} is a file of embeddings.")


@dataclass(frozen=True, kw_only=True)
class TrainFileOptions(FileOptions):
    """Embeddings from files: those measured and those that vote."""

    train: Path | None = vector_file("Training embeddings beside a file: they vote in k-NN, or train classifiers.")
    train_labels: Path | None = vector_file("Their labels.")

    def others(self) -> tuple[str, Path | None, Path | None]:
        return "train", self.train, self.train_labels


@dataclass(frozen=True, kw_only=True)
class GalleryFileOptions(FileOptions):
    """Embeddings from files: queries and the gallery that they search."""

    gallery: Path | None = vector_file("Embeddings that a file of embeddings searches.", without="one another")
    gallery_labels: Path | None = vector_file("Their labels.")

    def others(self) -> tuple[str, Path | None, Path | None]:
        return "gallery", self.gallery, self.gallery_labels


def read_features(config: FileOptions, device: torch.device) -> tuple[Features, Features | None, tuple[str, ...]]:
    """The embeddings of a command's file and of its second one (None: not given), and the classes of both.

    Raises:
        UserError: a file cannot be read, or they do not fit together.
    """
    import torch

    from wasskit.data.embeddings import read_labelled
    from wasskit.evaluation.embedding import Features

    _, path, labels = config.others()
    pairs = [(cast("ModelDataOptions", config).trained.model, config.labels)]
    if path is not None:
        pairs.append((path, labels))
    read = read_labelled(*pairs)
    found = [
        Features(one.vectors.to(device, torch.float32), one.labels.to(device), torch.arange(len(one.labels)))
        for one in read
    ]
    return found[0], found[1] if len(found) > 1 else None, read[0].classes
