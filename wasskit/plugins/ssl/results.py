"""Results on disk and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.plugins.ssl.metrics import METRICS
from wasskit.system.documents import read_json
from wasskit.system.files import replace_file, replace_text, writing
from wasskit.trained.files import is_exported
from wasskit.training.run import RunDirectory


def _headings(metrics: Iterable[str]) -> dict[str, str]:
    """The metrics that tables show, in their order, with their headings."""
    given = dict.fromkeys(metrics)
    knn = [key for key in given if key.startswith("knn") and key.endswith("_top1")]
    shown = [
        "linear_top1",
        "linear_top5",
        "linear_best_top1",
        *knn,
        "w2",
        "lu",
        "alignment",
        "effective_rank",
    ]
    return METRICS.headings(*(key for key in shown if key in given))


def paper_of(path: Path) -> Mapping[str, Any]:
    """The published figures that the recipe of a run carried."""
    return {} if is_exported(path) else RunDirectory.find(path, plugin="ssl")[0].paper


def record(folder: Path, name: str, values: Mapping[str, Any]) -> Path:
    """Put results under ``name`` into the folder's ``evaluation.json``, leaving the others."""
    path = folder / "evaluation.json"
    content: dict[str, Any] = {}
    if path.is_file():
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get(name, {}), dict):
            raise UserError(f"{path} is damaged: it holds no table of metrics; remove it and measure again.")
    content[name] = {**content.get(name, {}), **values}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(console.jsonable(content), indent=2) + "\n")
    return path


def save_spectra(path: Path, spectra: Mapping[str, Sequence[float]]) -> None:
    """Write logarithms of singular values, one array per name, where `wasskit plot spectrum` finds them."""
    import numpy as np

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in spectra.items()}
    replace_file(path, lambda file: np.savez(file, **arrays))


def show_metrics(
    title: str, rows: Mapping[str, Mapping[str, float]], paper: Mapping[str, Any] | None = None
) -> None:
    """Print metrics, one row per name, with the published ones below."""
    everything = dict(rows)
    published = (paper or {}).get("metrics", {})
    if published:
        everything["published"] = {key.partition("/")[2]: value for key, value in published.items()}
    headings = _headings(key for values in everything.values() for key in values)
    console.table(
        title,
        ["", *headings.values()],
        [[name, *(values.get(key) for key in headings)] for name, values in everything.items()],
    )
    if published and (paper or {}).get("source"):
        console.log(f"Published: {console.escape(str((paper or {})['source']))}")


def show_comparison(found: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print k-NN accuracies of several representations on whole and on cropped test images."""
    protocol = METRICS[next(iter(next(iter(found.values()))))].heading
    console.table(
        f"{title}, {protocol} (percent)",
        ["representation", "whole images", "random crops"],
        [[name, *values.values()] for name, values in found.items()],
        best={1: "max", 2: "max"},
    )
