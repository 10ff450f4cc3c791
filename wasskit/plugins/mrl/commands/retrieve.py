"""``wasskit mrl retrieve``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.plugins.mrl.options import ModelOrFileOptions
from wasskit.trained.vectors import vector_file


@dataclass(frozen=True, kw_only=True)
class MrlRetrieve(ModelOrFileOptions):
    """Options of ``wasskit mrl retrieve``."""

    needs_second: ClassVar[bool] = True

    gallery: str = option("train", help="Split, or for a file of embeddings the file, that is searched.", panel="Data")
    gallery_labels: Path | None = vector_file("Labels of the file that is searched.")
    shortlist: int = option(
        200, help="Items that the first search keeps; a funnel halves it at each step.", panel="Measures", min=10
    )

    def validate(self) -> None:
        super().validate()
        if self.gallery == self.split:
            raise UserError(f"--gallery and --split are both {self.split!r}: search another split.")

    @property
    def labels_needed(self) -> bool:
        return self.labels is not None or self.gallery_labels is not None

    def others(self) -> tuple[str, Path | None, Path | None]:
        named = self.of_vectors and (self.gallery != "train" or self.gallery_labels is not None)
        return "gallery", Path(self.gallery) if named else None, self.gallery_labels


def body(config: MrlRetrieve, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.mrl.reports import retrieval_report
    from wasskit.plugins.mrl.trained import given_splits
    from wasskit.report import finish
    from wasskit.trained.data import results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "retrieval.json", "figures/retrieval.png")
        given = given_splits(config, device, config.gallery)
        assert given.train is not None
        report = retrieval_report(
            given.test, given.train, given.dims, shortlist=config.shortlist, name=str(config.trained.model)
        )
    return finish(report, folder)


command = Command(
    "mrl retrieve",
    MrlRetrieve,
    body,
    "Retrieve with short prefixes first: accuracy against cost.\n\n"
    "Single shot: exact search with one dimension. Adaptive: a shortlist with a short prefix, re-ranked with "
    "the whole embedding. Funnel: the list halves while the prefix doubles. The cost of a query is counted "
    "in multiply-adds of inner products. Without labels, how many of the ten nearest by the whole embedding are "
    "found.",
    (
        "wasskit mrl retrieve runs/mrl/digits",
        "wasskit mrl retrieve runs/mrl/digits --shortlist 50",
        "wasskit mrl retrieve runs/mrl/train",
        "wasskit mrl retrieve test.npy --gallery train.npy",
        "wasskit mrl retrieve test.npy --labels test_labels.npy --gallery train.npy --gallery-labels train_labels.npy",
    ),
)
