"""Results as tables and as JSON."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.plugins.mrl.metrics import CLASSIFICATION
from wasskit.system.files import replace_text, writing

if typing.TYPE_CHECKING:
    from wasskit.plugins.mrl.adaptive import Outcome


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


def show_costs(
    title: str,
    outcomes: Sequence[Outcome],
    headings: Mapping[str, str],
    detail: str,
    *,
    unit: tuple[str, float],
    reference: Outcome,
) -> None:
    """Print quality and cost, the cheapest first; the last column is how many times cheaper than the
    reference.

    ``unit`` is the heading of the cost and the number of multiply-adds that it counts as one.
    """
    rows = [
        [
            o.name,
            o.text,
            *(f"{o.metrics[name]:.2f}" for name in headings),
            o.operations / unit[1],
            f"{reference.operations / o.operations:.1f}",
        ]
        for o in sorted(outcomes, key=lambda o: o.operations)
    ]
    console.table(title, ["method", detail, *headings.values(), unit[0], "times cheaper"], rows, digits=3)


def write_result(path: Path, result: Mapping[str, Any]) -> Path:
    """Write a result as JSON, whole or not at all; ``UserError`` where the file system refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(console.jsonable(result), indent=2, allow_nan=False) + "\n")
    return path
