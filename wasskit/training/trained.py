"""What belongs to a trained model besides its weights: the folder of its results, the data it was trained on.

A model is named by its run directory, by one of its checkpoints, or by exported weights (``.safetensors``), which
belong to no run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from wasskit.errors import UserError
from wasskit.training.run import RunDirectory

__all__ = ["data_root_of", "exported_file", "is_exported", "results_folder"]


def is_exported(model: Path) -> bool:
    """Whether ``model`` names exported weights."""
    return model.suffix == ".safetensors" and not model.is_dir()


def results_folder(
    model: Path,
    output: Path | None,
    *,
    plugin: str,
    claim: Callable[..., None] | None = None,
    files: Iterable[str] = (),
) -> Path:
    """Where results about a model go: the folder asked for, its run directory, or the folder beside the weights.

    Args:
        claim: refuses files that are there already (:meth:`wasskit.options.OverwriteOptions.claim`).
        files: what is going to be written into the folder. In the run directory itself results replace earlier ones.
    """
    if output is None and not is_exported(model):
        return RunDirectory.find(model, plugin=plugin)[0].path
    folder = model.parent if output is None else output
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; name a folder.")
    if claim is not None:
        claim(*(folder / name for name in files))
    return folder


def exported_file(
    model: Path, output: Path | None, *, plugin: str, claim: Callable[..., None], onnx: bool
) -> Path:
    """Where a model is exported to: the file asked for, or ``export/model.safetensors`` in its run directory.

    Args:
        onnx: whether an ``.onnx`` file is written beside it.

    Raises:
        UserError: the name does not end in .safetensors, is the model's own, or is taken.
    """
    if output is None:
        if is_exported(model):
            raise UserError(f"{model} is exported already: name the file to write by --output.")
        return RunDirectory.find(model, plugin=plugin)[0].path / "export" / "model.safetensors"
    if output.suffix != ".safetensors":
        raise UserError(f"--output: {output} must end in .safetensors.")
    if model.resolve() == output.resolve():
        raise UserError(f"--output: {output} is the model itself; name another file.")
    claim(output, *([output.with_suffix(".onnx")] if onnx else []))
    return output


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
