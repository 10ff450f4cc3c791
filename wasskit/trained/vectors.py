"""Embeddings where a command takes a trained model: of a file, or of vectors that go through a model such as that of
``mrl adapt``. Their options, and what they name."""

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

    from wasskit.data.embeddings import Labelled
    from wasskit.evaluation.embedding import Features
    from wasskit.trained.kind import ModelKind, TrainedModel
    from wasskit.trained.options import ModelDataOptions

__all__ = [
    "FileOptions",
    "GalleryFileOptions",
    "Given",
    "ModelOrFile",
    "TrainFileOptions",
    "read_features",
    "vector_file",
]

FILES = ".npy, .npz:KEY, .safetensors:KEY, .parquet:COLUMN, .csv"


@dataclass(frozen=True, kw_only=True)
class ModelOrFile(ModelArgument):
    """The trained model whose embeddings are measured, or a file of embeddings."""

    model: Path = argument(
        help="Run directory, checkpoint (.pt), exported weights (.safetensors), also of `mrl adapt`; or embeddings "
        f"({FILES}).",
        complete=complete_models_or_vectors, metavar="MODEL|FILE",
    )  # fmt: skip


def vector_file(help: str, *, without: str = "none") -> Any:
    """An option that names a file of embeddings or of labels."""
    return option(None, help=help, panel="Data", complete=complete_local_paths, show_default=without)


@dataclass(frozen=True, kw_only=True)
class FileOptions(OptionGroup):
    """Embeddings from files and their labels; mixed into the options of a command on a model."""

    needs_second: ClassVar[bool] = False
    """Whether the command measures nothing of one file alone."""
    second_is_trained: ClassVar[bool] = True
    """Whether the second are training vectors, or what stands for them."""

    vectors: Path | None = vector_file(
        "Embeddings that go through a model of `mrl adapt`, as all other files then do.",
        without="the test and training vectors of its run",
    )
    labels: Path | None = vector_file("Labels of a file of embeddings (.npy, .csv:COLUMN, .parquet:COLUMN, .txt).")

    def others(self) -> tuple[str, Path | None, Path | None]:
        """The second file of embeddings, by its flag's name, and its labels."""
        raise NotImplementedError

    @property
    def labels_needed(self) -> bool:
        """Whether every file of embeddings needs labels."""
        return True

    @property
    def of_vectors(self) -> bool:
        """Whether the embeddings are those of a file, or of a model that takes vectors."""
        from wasskit.data.embeddings import is_embeddings
        from wasskit.trained.files import kind_of_vectors

        model = cast("ModelDataOptions", self).trained.model
        return is_embeddings(model) or kind_of_vectors(model) is not None

    @property
    def named(self) -> Path | None:
        """The file whose embeddings are measured; None: a model on images, or the vectors of a run."""
        from wasskit.data.embeddings import is_embeddings

        model = cast("ModelDataOptions", self).trained.model
        return model if is_embeddings(model) else self.vectors

    def validate(self) -> None:
        super().validate()
        name, path, labels = self.others()
        model, dataset = cast("ModelDataOptions", self).trained.model, cast("ModelDataOptions", self).dataset
        if self.named == model:
            from wasskit.data.embeddings import is_part

            if not (model.exists() or is_part(model)):
                raise UserError(f"There is no file {model}; name one that is there.")
        beside = (("labels", self.labels), (name, path), (f"{name}-labels", labels))
        given = [flag for flag, value in (("vectors", self.vectors), *beside) if value]
        if not self.of_vectors:
            if given:
                raise UserError(
                    f"--{given[0]} belongs to embeddings, and {model} is neither a file of them ({FILES}) nor a run of "
                    "`mrl adapt`."
                )
        elif dataset is not None:
            raise UserError(f"--dataset belongs to a model on images, which {model} is not.")
        elif self.named is None:
            if given:
                raise UserError(f"--{given[0]} belongs to other vectors than those of the run {model}: name --vectors.")
        elif self.vectors is not None and self.named == model:
            raise UserError(f"--vectors belongs to a model that they go through: {model} is a file of embeddings.")
        elif self.labels is None and self.labels_needed:
            raise UserError(f"{self.named} is a file of embeddings: give their labels by --labels.")
        elif path is None and self.needs_second:
            more = f" and --{name}-labels" if self.labels_needed else ""
            raise UserError(f"{self.named} is a file of embeddings: give --{name}{more} too.")
        elif (path is None) != (labels is None) and (path is None or self.labels_needed):
            raise UserError(f"--{name} and --{name}-labels belong together: give both.")


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

    second_is_trained: ClassVar[bool] = False

    gallery: Path | None = vector_file("Embeddings that a file of embeddings searches.", without="one another")
    gallery_labels: Path | None = vector_file("Their labels.")

    def others(self) -> tuple[str, Path | None, Path | None]:
        return "gallery", self.gallery, self.gallery_labels


@dataclass(frozen=True)
class Given:
    """The embeddings that a command measures.

    Args:
        name: what they are called.
        first: what is measured; ``second``: what votes, is trained on or searched, where there is such.
        dims: the prefixes that they were trained for; None: not known.
        other: what the second are, as sentences name them.
    """

    name: str
    first: Features
    second: Features | None
    classes: tuple[str, ...]
    dims: tuple[int, ...] | None = None
    other: str = ""


def read_features(config: FileOptions, device: torch.device) -> Given:
    """The embeddings of a command's files, or of its model of vectors, which these go through.

    Raises:
        UserError: a file cannot be read, they do not fit together or not the model, or a run's own have no labels.
    """
    from wasskit.data.embeddings import is_embeddings, read_labelled
    from wasskit.trained.files import kind_of_vectors, name_of
    from wasskit.trained.kind import load_model

    _, path, labels = config.others()
    trained = cast("ModelDataOptions", config).trained
    kind = None if is_embeddings(trained.model) else kind_of_vectors(trained.model)
    if config.named is not None:
        read = read_labelled((config.named, config.labels), *([] if path is None else [(path, labels)]))
    else:
        assert kind is not None
        read = _own(kind, config)
    model = None if kind is None else load_model((kind,), trained.model, device, trained.checkpoint)
    found = [_features(model, one, device) for one in read]
    return Given(
        name_of(trained.model),
        found[0],
        found[1] if len(found) > 1 else None,
        read[0].classes,
        None if model is None else tuple(model.description.get("dims", ())) or None,
        str(path if config.named is not None else f"the training of {trained.model}"),
    )


def _own(kind: ModelKind[Any], config: FileOptions) -> list[Labelled]:
    """The test vectors of a run, and its training vectors where the command takes such."""
    from wasskit.trained.files import is_exported
    from wasskit.training.run import RunDirectory

    model = cast("ModelDataOptions", config).trained.model
    if is_exported(model) or kind.own_vectors is None:
        raise UserError(f"{model} has no vectors of its own: name some by --vectors.")
    test, train = kind.own_vectors(RunDirectory.find(model)[0].options)
    known, voting = (not bool((part.labels < 0).any()) for part in (test, train))
    if not known and config.labels_needed:
        raise UserError(f"{model} knows no labels of its test vectors: name vectors and labels by --vectors, --labels.")
    if config.labels_needed and config.needs_second and not voting:
        raise UserError(f"{model} was trained without labels: name vectors that have some by --vectors.")
    return [test, train] if config.second_is_trained and (voting or not config.labels_needed) else [test]


def _features(model: TrainedModel[Any] | None, part: Labelled, device: torch.device) -> Features:
    import torch

    from wasskit.data.embeddings import Embeddings
    from wasskit.evaluation.embedding import Features

    labels, rows = part.labels.to(device), torch.arange(len(part.labels))
    if model is None:
        return Features(part.vectors.to(device, torch.float32), labels, rows)
    return Features(model.embed_rows(Embeddings(part.where, part.vectors)), labels, rows)
