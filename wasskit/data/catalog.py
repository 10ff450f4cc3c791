"""What data sets there are and where their files lie. Imports neither torch nor numpy: completion needs it."""

from __future__ import annotations

import os
from pathlib import Path

from wasskit.data import sets as _declared
from wasskit.data.card import CARDS, DatasetCard, data_root

__all__ = ["CARDS", "DOMAINS", "MEASURES", "DatasetCard", "data_root", "dataset_names", "find_datasets"]

assert _declared

MEASURES: dict[str, tuple[str, tuple[int, ...]]] = {
    "8gaussians": ("ring", (8,)),
    "25gaussians": ("grid", (5,)),
    "49gaussians": ("grid", (7,)),
    "100gaussians": ("grid", (10,)),
    "swissroll": ("swiss_roll", ()),
    "moons": ("two_moons", ()),
    "circles": ("two_circles", ()),
    "normal": ("normal", (2,)),
}
"""Measures in the plane: name -> the function of ``wasskit.data.toy`` that makes it, and its arguments."""

DOMAINS = ("digits-a", "digits-b", "mnist", "usps")
"""Domains of digits, which ``wasskit.data.domains`` loads as it does any data set of images."""


def dataset_names(task: str | None = None) -> tuple[str, ...]:
    """The names of all sets, or of those that serve a task ("classification", "ssl", "metric", ...)."""
    return tuple(name for name, card in CARDS.items() if task is None or task in card.tasks)


def find_datasets(root: str | os.PathLike[str] | None = None) -> dict[str, Path | str]:
    """For each set the folder it was found in (a Path), or the reason it is missing (a str)."""
    return {name: card.locate(data_root(root)) for name, card in CARDS.items()}
