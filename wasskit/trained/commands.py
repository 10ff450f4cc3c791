"""The bodies of the commands that every kind of model has: embed and export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wasskit import console
from wasskit.distributed.group import group
from wasskit.evaluation.embedding import embedding_files, write_embeddings
from wasskit.models.export import export_onnx, save_weights
from wasskit.trained.data import image_loader, open_images
from wasskit.trained.files import exported_file
from wasskit.trained.kind import Checkpoint, ModelKind
from wasskit.trained.options import EmbedOptions, ExportOptions, NetworkExportOptions

__all__ = ["embed", "export", "export_network"]


def embed(kind: ModelKind[Any], config: EmbedOptions, **choices: Any) -> dict[str, Any]:
    """Embed images straight to disk: a ``.npy`` file and a table of their paths.

    Args:
        choices: keywords of ``kind.embedder``.
    """
    config.claim(*embedding_files(config.output))
    with group(config.device) as device:
        model = kind.load(config.model, device, config.checkpoint)
        network = kind.embedder(model, **choices)
        dataset = open_images(config.images, model.description, corrupt=config.corrupt)
        for bad in dataset.skipped:
            console.warn(f"left out {bad}")
        loader = image_loader(
            kind, model, dataset, device, batch_size=config.batch_size, workers=config.workers
        )
        try:
            path, table = write_embeddings(
                config.output,
                network,
                loader,
                names=dataset.paths or [],
                labels=dataset.labels,
                classes=dataset.classes,
                precision="bf16" if config.precision == "bf16" else "float32",
                dtype=config.dtype,
            )
        finally:
            loader.close()
    dim = int(np.load(path, mmap_mode="r").shape[1])
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


def export(
    kind: ModelKind[Any],
    config: ExportOptions,
    *,
    checkpoint: Checkpoint = "last",
    onnx: bool = False,
    **choices: Any,
) -> dict[str, Any]:
    """Write a model's weights, and the network that embeds as ONNX if wanted.

    Args:
        choices: keywords of ``kind.embedder``, for ONNX.
    """
    path = exported_file(config.model, config.output, plugin=kind.name, claim=config.claim, onnx=onnx)
    model = kind.load(config.model, "cpu", checkpoint)
    network = kind.embedder(model, **choices)
    save_weights(path, kind.weights(model), model.description)
    result: dict[str, Any] = {"weights": str(path)}
    if not config.json:
        console.result(f"Weights: {console.escape(str(path))}")
    if onnx:
        shape = (2, *kind.input_shape(model.description))
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        exported = export_onnx(path.with_suffix(".onnx"), network, example)
        result |= {"onnx": str(exported.path), "onnx_error": exported.max_error}
        if not config.json:
            console.result(f"ONNX: {console.escape(str(exported.path))}")
            console.result(
                f"Largest difference to torch: {exported.max_error:.1e}"
                if exported.max_error is not None
                else exported.note
            )
    return result


def export_network(kind: ModelKind[Any], config: NetworkExportOptions, **choices: Any) -> dict[str, Any]:
    """Export as the options of a network on images say."""
    return export(kind, config, checkpoint=config.checkpoint, onnx=config.onnx, **choices)
