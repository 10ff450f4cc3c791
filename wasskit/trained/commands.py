"""The commands that every kind of model has, declared by the plugin's :class:`wasskit.plugins.Plugin`.

Free of torch until one of them runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Any

from wasskit.config import Command, Invocation, OptionGroup, fields_of
from wasskit.trained.options import EmbedOptions, ExportOptions

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from wasskit.data.embeddings import Embeddings
    from wasskit.evaluation.embedding import Embedder
    from wasskit.trained.kind import ModelKind

STANDARD = {
    "embed": (
        EmbedOptions,
        "Row i of the .npy file is the embedding of the image in row i of the CSV. Images are prepared as in the "
        "evaluation of the training. A model of vectors reads them from a file as it goes and writes row i for row i.",
        ("photos/ --output photos.npy", "photos.csv --dtype float16"),
    ),
    "export": (
        ExportOptions,
        "The file says by itself how to rebuild the model; the commands on a run directory take it instead. The ONNX "
        "network takes inputs as they go into the network: images normalised by the header's mean and std, or vectors.",
        ("", "--checkpoint last --output model"),
    ),
}
"""Options, explanation and examples of the commands that a plugin need only name."""


def standard_command(
    plugin: str,
    name: str,
    help: str,
    kinds: Callable[[], Sequence[ModelKind[Any]]],
    choices: type[OptionGroup] = OptionGroup,
) -> Command[Any]:
    """``embed`` or ``export`` of a plugin.

    Args:
        help: one line.
        kinds: loads what the plugin declares of its models.
        choices: the plugin's own options, the keywords of ``ModelKind.embedder``.
    """
    group, explained, examples = STANDARD[name]
    options = make_dataclass(
        group.__name__, [("choices", choices, choices())], bases=(group,), frozen=True, kw_only=True
    )
    shown = {f.name for f in fields_of(choices) if not f.option.hidden}

    def body(config: Any, invocation: Invocation) -> Mapping[str, Any]:
        chosen = {key: value for key, value in vars(config.choices).items() if key in shown}
        return (embed if name == "embed" else export)(kinds(), config, **chosen)

    lines = tuple(f"wasskit {plugin} {name} runs/{plugin}/NAME {words}".rstrip() for words in examples)
    return Command(f"{plugin} {name}", options, body, f"{help}\n\n{explained}", lines)


def embed(kinds: Sequence[ModelKind[Any]], config: EmbedOptions, **choices: Any) -> dict[str, Any]:
    """Embed straight to disk: images into a ``.npy`` file and a table of their paths, vectors into the file alone.

    Args:
        choices: keywords of ``ModelKind.embedder``.
    """
    from wasskit.data.embeddings import open_embeddings
    from wasskit.distributed.group import group
    from wasskit.evaluation.embedding import embedding_files
    from wasskit.trained.kind import load_model

    path, table = embedding_files(config.output)
    config.files.refuse_existing(path)
    with group(config.machine.device) as device:
        found = load_model(kinds, config.trained.model, device, config.trained.checkpoint)
        network = found.kind.embedder(found.model, **choices)
        if found.kind.takes_images:
            config.files.refuse_existing(table)
            return _embed_images(network, found.description, config, device)
        rows = found.kind.checked(open_embeddings(config.images), found.description)
        return _embed_rows(network, rows, config, path, device)


def _embed_rows(
    network: Embedder, rows: Embeddings, config: EmbedOptions, path: Path, device: torch.device
) -> dict[str, Any]:
    from wasskit import console
    from wasskit.data.loaders import RowLoader
    from wasskit.evaluation.embedding import write_vectors

    loader = RowLoader(rows, device=device)
    dim = write_vectors(path, network, loader, len(rows), precision=config.machine.precision, dtype=config.dtype)
    if not config.json:
        console.result(f"{len(rows):,} embeddings of {dim} numbers: {console.escape(str(path))}")
    return {"vectors": len(rows), "dim": dim, "embeddings": str(path)}


def _embed_images(
    network: Embedder, description: Mapping[str, Any], config: EmbedOptions, device: torch.device
) -> dict[str, Any]:
    from wasskit import console
    from wasskit.data.loaders import EvalLoader
    from wasskit.evaluation.embedding import write_embeddings
    from wasskit.trained.data import open_images

    dataset = open_images(config.images, description, corrupt=config.reading.corrupt)
    for note in dataset.notes:
        console.log(console.escape(note))
    for bad in dataset.skipped:
        console.warn(f"left out {bad}")
    loader = EvalLoader(dataset, config.batch_size, device=device, workers=config.reading.workers)
    with contextlib.closing(loader):
        path, table, dim = write_embeddings(
            config.output, network, loader, names=dataset.paths or [], labels=dataset.labels, classes=dataset.classes,
            precision=config.machine.precision, dtype=config.dtype,
        )  # fmt: skip
    if not config.json:
        console.result(f"{len(dataset):,} embeddings of {dim} numbers: {console.escape(str(path))}")
        console.result(f"Their images: {console.escape(str(table))}")
    return {
        "images": len(dataset),
        "dim": dim,
        "embeddings": str(path),
        "table": str(table),
        "skipped": [str(bad) for bad in dataset.skipped],
    }


def export(kinds: Sequence[ModelKind[Any]], config: ExportOptions, **choices: Any) -> dict[str, Any]:
    """Write a model's weights, and the network that embeds as ONNX if wanted.

    Args:
        choices: keywords of ``ModelKind.embedder``, for ONNX.
    """
    import torch

    from wasskit import console
    from wasskit.errors import UserError
    from wasskit.models.export import export_onnx, save_weights
    from wasskit.trained.files import exported_file
    from wasskit.trained.kind import load_model

    path = exported_file(
        config.trained.model,
        config.output,
        plugin=kinds[0].name,
        refuse_existing=config.files.refuse_existing,
        onnx=config.onnx,
    )
    found = load_model(kinds, config.trained.model, "cpu", config.trained.checkpoint)
    kind, model = found.kind, found.model
    network = kind.embedder(model, **choices)
    if config.onnx and not isinstance(network, torch.nn.Module):
        raise UserError(f"--onnx: a model of `wasskit {kind.name}` cannot be written as ONNX.")
    save_weights(path, kind.weights(model), model.description)
    result = {"weights": str(path), **{key: model.description[key] for key in kind.rules}}
    if not config.json:
        console.result(f"Weights: {console.escape(str(path))}")
    if config.onnx:
        shape = (2, *kind.input_shape(model.description))
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        assert isinstance(network, torch.nn.Module)
        name = "images" if kind.takes_images else "vectors"
        exported = export_onnx(path.with_suffix(".onnx"), network, example, input_name=name)
        error = exported.max_error
        # onnx_max_error is the former key of ssl.
        result |= {"onnx": str(exported.path), "onnx_error": error, "onnx_max_error": error}
        if not config.json:
            console.result(f"ONNX: {console.escape(str(exported.path))}")
            console.result(exported.note if error is None else f"Largest difference to torch: {error:.1e}")
    return result
