"""What data sets there are and where their files lie. Imports neither torch nor numpy: completion needs it."""

from __future__ import annotations

import os
from pathlib import Path

from wasskit.data import sets as _declared
from wasskit.data.card import CARDS, DatasetCard, data_root

__all__ = ["CARDS", "DatasetCard", "data_root", "dataset_names", "find_datasets"]

assert _declared


def dataset_names(task: str | None = None) -> tuple[str, ...]:
    """The names of all sets, or of those that serve a task ("classification", "ssl", "metric", ...)."""
    return tuple(name for name, card in CARDS.items() if task is None or task in card.tasks)


def find_datasets(root: str | os.PathLike[str] | None = None) -> dict[str, Path | str]:
    """For each set the folder it was found in (a Path), or the reason it is missing (a str)."""
    return {name: card.locate(data_root(root)) for name, card in CARDS.items()}
