"""Results on disk and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.training.files import replace_file, replace_text, writing
from wasskit.training.run import RunDirectory

HEADINGS = {
    "linear_top1": "Linear top-1",
    "linear_top5": "top-5",
    "linear_best_top1": "best top-1",
    "knn": "k-NN top-1",
    "w2": "W2",
    "lu": "L_U",
    "alignment": "Alignment",
    "effective_rank": "Effective rank",
}
"""Metrics by their key, with their headings; ``knn`` stands for the run's own k."""


def results_folder(path: Path, output: Path | None) -> Path:
    """Where the results on a model go: the folder asked for, its run directory, or beside its weights."""
    if output is not None:
        return output
    if path.suffix == ".safetensors":
        return path.parent
    return RunDirectory.find(path, plugin="ssl")[0].path


def paper_of(path: Path) -> Mapping[str, Any]:
    """The published figures that the recipe of a run carried."""
    return {} if path.suffix == ".safetensors" else RunDirectory.find(path, plugin="ssl")[0].paper


def record(folder: Path, name: str, values: Mapping[str, Any]) -> Path:
    """Put results under ``name`` into the folder's ``evaluation.json``, leaving the others."""
    path = folder / "evaluation.json"
    content: dict[str, Any] = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): remove it and measure again.") from None
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
    plain = {name: _by_heading(values) for name, values in everything.items()}
    keys = [key for key in HEADINGS if any(key in values for values in plain.values())]
    console.table(
        title,
        ["", *(HEADINGS[key] for key in keys)],
        [[name, *(values.get(key) for key in keys)] for name, values in plain.items()],
    )
    if published and (paper or {}).get("source"):
        console.log(f"Published: {console.escape(str((paper or {})['source']))}")


def _by_heading(values: Mapping[str, float]) -> dict[str, float]:
    return {"knn" if _is_knn(key) else key: value for key, value in values.items()}


def _is_knn(key: str) -> bool:
    return key.startswith("knn") and key.endswith("_top1")


def show_comparison(found: Mapping[str, Mapping[str, float]], dataset: str) -> None:
    """Print k-NN accuracies of several representations on whole and on cropped test images."""
    console.table(
        f"k-NN top-1 on {dataset}/test (percent)",
        ["representation", "whole images", "random crops"],
        [[name, *values.values()] for name, values in found.items()],
        best={1: "max", 2: "max"},
    )
