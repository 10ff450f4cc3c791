"""What belongs to a trained model besides its weights: the folder of its results, the data it was trained on.

A model is named by its run directory, by one of its checkpoints, or by exported weights (``.safetensors``), which
belong to no run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wasskit import console
from wasskit.data.embeddings import is_embeddings
from wasskit.errors import UserError
from wasskit.models.export import load_header, load_weights
from wasskit.plugin import kinds_of, load_plugin, plugin_of
from wasskit.training.checkpoint import load_checkpoint
from wasskit.training.run import RunDirectory

if TYPE_CHECKING:
    from wasskit.trained.kind import ModelKind

__all__ = [
    "checkpoint_entry", "data_root_of", "embeddings_of_run", "exported_file", "is_exported", "kind_of_vectors",
    "name_of", "read_model", "results_folder",
]  # fmt: skip


def checkpoint_entry(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a task adds to its checkpoints (``Task.extra_state``), so that :func:`read_model` finds its description."""
    return {"model": dict(description)}


def read_model(
    path: Path, plugin: str, checkpoint: str = "last", *, kinds: Collection[str] = (), finished: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """The weights of a trained model, its description and the file they lie in, all unchecked but for their form.

    Args:
        path: a run directory (its ``checkpoint`` is taken), a checkpoint in one, or exported weights.
        kinds: what the description's ``kind`` may be, where it is not the name of the plugin.
        finished: the exported weights that a training leaves in its run directory, instead of checkpoints.

    Raises:
        UserError: there is nothing of the plugin at ``path``, or it is damaged.
    """
    file = path if is_exported(path) else _file_in_run(path, plugin, checkpoint, finished)
    state: Any
    described: Any
    if is_exported(file):
        state, described = load_weights(file)
    else:
        content = load_checkpoint(file)
        maker = str(content.get("command", plugin)).partition(" ")[0]
        if maker != plugin:
            raise UserError(f"{file} holds a model of `wasskit {maker[:40]}`, not of `wasskit {plugin}`.")
        state, extra = content.get("task", {}), content.get("extra")
        described = extra.get("model") if isinstance(extra, dict) else None
        if (
            not isinstance(described, dict)
            or not isinstance(state, dict)
            or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
        ):
            raise UserError(f"{file} does not describe its model: name another checkpoint.")
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in (kinds or (plugin,)):
        other = str(kind or "other weights")[:40]
        if other.partition("-")[0] == plugin:
            raise UserError(f"{file} holds a model of the kind {other}, which this command does not take.")
        raise UserError(f"{file} is not a model saved by `wasskit {plugin}` (it holds {other}).")
    return state, described, file


def _file_in_run(path: Path, plugin: str, checkpoint: str, finished: str | None) -> Path:
    """The file of the model in a run directory, or the checkpoint that ``path`` names."""
    if finished is not None and (path / finished).is_file():
        if checkpoint != "last":
            raise UserError(f"--checkpoint {checkpoint}: {path} keeps its last model only.")
        return path / finished
    run, file = RunDirectory.find(path, plugin=plugin)
    if finished is not None:
        if file is not None:
            raise UserError(f"{path} is the state of a training: name its run directory, {run.path}.")
        raise UserError(f"{path} holds no {finished}: its training has not finished; go on with --resume {path}.")
    if file is None:
        file = run.checkpoints / f"{checkpoint}.pt"
        if not file.is_file():
            if any(run.path.glob("*/**/config.toml")):
                raise UserError(f"{path} is a folder of runs (`wasskit {run.command}`): name one of the runs in it.")
            raise UserError(f"{path} has no checkpoint {file.name}: train it, or name another run.")
    return file


def is_exported(model: Path) -> bool:
    """Whether ``model`` names exported weights."""
    return model.suffix == ".safetensors" and not model.is_dir()


def kind_of_vectors(model: Path) -> ModelKind[Any] | None:
    """The kind of a trained model, of any plugin, that takes vectors; None: it takes images, or there is none."""
    with contextlib.suppress(UserError):
        if is_exported(model):
            header = str(load_header(model).get("kind"))
            found = [kind for kind in kinds_of(header.partition("-")[0]) if kind.header == header]
        else:
            command = RunDirectory.find(model)[0].command
            found = [kind for kind in kinds_of(command.partition(" ")[0]) if command in kind.trained_by]
        return next((kind for kind in found if not kind.takes_images), None)
    return None


def embeddings_of_run(run: Path, device: str) -> Tensor | None:
    """The embeddings (N, m) of a run's test images or vectors; None: it is no run, or one of a method without such."""
    if not (run / "config.toml").is_file():
        return None
    plugin = plugin_of(RunDirectory.open(run).command.partition(" ")[0])
    if plugin is None or plugin.embeddings is None:
        return None
    features: Tensor = load_plugin(plugin.embeddings)(run, device)
    console.log(f"{len(features):,} test samples embedded by the run {console.escape(str(run))}.")
    return features


def name_of(model: Path) -> str:
    """What results call a model: its run's name, or that of the file of weights or embeddings."""
    if is_exported(model) or is_embeddings(model):
        return model.stem
    return RunDirectory.find(model)[0].path.resolve().name


def results_folder(
    model: Path,
    output: Path | None,
    *,
    plugin: str,
    refuse_existing: Callable[..., None] | None = None,
    files: Iterable[str] = (),
) -> Path:
    """Where results about a model go: the folder asked for, its run directory, or the folder beside the weights; those
    about a file of embeddings, or by another plugin's model of vectors, go to ``runs/PLUGIN/evaluate-NAME``.

    Args:
        refuse_existing: that of :class:`wasskit.options.OverwriteOptions`.
        files: what is going to be written into the folder. In the run directory itself results replace earlier ones.
    """
    if output is None and not is_exported(model):
        kind = None if is_embeddings(model) else kind_of_vectors(model)
        if is_embeddings(model) or (kind is not None and kind.name != plugin):
            output = Path("runs") / plugin / f"evaluate-{name_of(model)}"
    if output is None and not is_exported(model):
        return RunDirectory.find(model, plugin=plugin)[0].path
    folder = model.parent if output is None else output
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; name a folder.")
    if refuse_existing is not None:
        refuse_existing(*(folder / name for name in files))
    return folder


def exported_file(
    model: Path, output: Path | None, *, plugin: str, refuse_existing: Callable[..., None], onnx: bool
) -> Path:
    """Where a model is exported to: the file asked for, or ``export/model.safetensors`` in its run directory.

    Args:
        onnx: whether an ``.onnx`` file is written beside it.

    Raises:
        UserError: the name is that of another format, is the model's own, or is taken. ``.safetensors`` is added to
            one without it.
    """
    if output is None:
        if is_exported(model):
            raise UserError(f"{model} is exported already: name the file to write by --output.")
        return RunDirectory.find(model, plugin=plugin)[0].path / "export" / "model.safetensors"
    if not output.name or output.is_dir():
        raise UserError(f"--output: {output} is a folder; name a file in it.")
    if output.suffix in (".pt", ".pth", ".bin", ".onnx"):
        raise UserError(f"--output: {output} must end in .safetensors.")
    if output.suffix != ".safetensors":
        output = output.with_name(output.name + ".safetensors")
    if model.resolve() == output.resolve():
        raise UserError(f"--output: {output} is the model itself; name another file.")
    refuse_existing(output, *([output.with_suffix(".onnx")] if onnx else []))
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
