"""Tables of results per dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wasskit import console

CLASSIFICATION = {"top1": "Top-1", "top5": "Top-5", "map10": "mAP@10"}
"""Metrics of the classifiers by their key, with their headings."""


def show_dimensions(
    title: str,
    dims: Sequence[int],
    metrics: Mapping[str, float],
    *,
    split: str = "test",
    headings: Mapping[str, str] = CLASSIFICATION,
    paper: Mapping[str, Any] | None = None,
) -> None:
    """Print metrics named ``split/metric@dim`` as one row per dimension, their means, and published means if
    any.
    """
    rows: list[list[Any]] = [
        [str(d), *(metrics.get(f"{split}/{name}@{d}") for name in headings)] for d in dims
    ]
    rows.append(["mean", *(metrics.get(f"{split}/{name}") for name in headings)])
    published = (paper or {}).get("metrics", {})
    if published:
        rows.append(["published mean", *(published.get(f"{split}/{name}") for name in headings)])
    console.table(title, ["dimension", *headings.values()], rows)
    if published and (paper or {}).get("source"):
        console.log(f"Published: {console.escape(str((paper or {})['source']))}")
