"""What belongs to a trained model besides its weights: the folder of its results, the data it was trained on.

A model is named by its run directory, by one of its checkpoints, or by exported weights (``.safetensors``), which
belong to no run.
"""

from __future__ import annotations

from pathlib import Path

from wasskit.training.run import RunDirectory

__all__ = ["data_root_of", "is_exported", "results_folder"]


def is_exported(model: Path) -> bool:
    """Whether ``model`` names exported weights."""
    return model.suffix == ".safetensors" and not model.is_dir()


def results_folder(model: Path, output: Path | None, *, plugin: str) -> Path:
    """Where results about a model go: the folder asked for, its run directory, or the folder beside the weights."""
    if output is not None:
        return output
    return model.parent if is_exported(model) else RunDirectory.find(model, plugin=plugin)[0].path


def data_root_of(model: Path, dataset: str | None = None, *, plugin: str) -> Path | None:
    """The data root that a run was trained with, as long as it is there.

    None for exported weights, and where another ``dataset`` than the run's own is wanted: that one may lie elsewhere.
    """
    if is_exported(model):
        return None
    options = RunDirectory.find(model, plugin=plugin)[0].options
    if dataset is not None and dataset != options.get("dataset", dataset):
        return None
    root = options.get("data_root")
    return Path(root) if root and Path(root).exists() else None
