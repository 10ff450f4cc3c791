"""Weights for others: safetensors with a JSON header, and ONNX checked against torch.

A weights file says by itself what it is: under the metadata key ``wasskit`` lies a JSON object with whatever
is needed to rebuild the network (backbone, image size, dimensions, classes, ...).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wasskit import __version__
from wasskit.errors import RunFailed, UserError
from wasskit.models.weights import HEADER_KEY, read_safetensors
from wasskit.system.files import replace_file, replacing, writing


def save_weights(path: Path, weights: nn.Module | Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a module's state, or a mapping of names to tensors, as safetensors with a JSON header.

    The header may hold anything JSON can; ``version`` is added. The file appears only when it is complete. Tensors keep
    their dtype and are stored contiguously, shared ones once per name. Raises UserError if the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write(weights_bytes(weights, header)))


def weights_bytes(weights: nn.Module | Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """What :func:`save_weights` writes."""
    from safetensors.torch import save

    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # Clones: safetensors refuses tensors that share memory, and transposed ones.
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    metadata = {HEADER_KEY: json.dumps({**header, "version": __version__}, sort_keys=True), "format": "pt"}
    return save(tensors, metadata=metadata)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the header of a file written by :func:`save_weights`.

    Raises UserError if the file is not there, damaged, or has no header of ours.
    """
    state, header = read_safetensors(path)
    return state, _own(path, header)


def load_header(path: Path) -> dict[str, Any]:
    """The header that :func:`load_weights` gives, without reading a tensor. Raises UserError as that."""
    return _own(path, read_safetensors(path, tensors=False)[1])


def _own(path: Path, header: Mapping[str, Any] | None) -> dict[str, Any]:
    if header is None:
        raise UserError(f"{path} has no wasskit header: give it to --weights, or export the run again.")
    return dict(header)


@dataclass(frozen=True)
class OnnxExport:
    """Where the network was written and how far its outputs are from torch's.

    ``max_error`` is the largest absolute difference over the outputs, None where it could not be computed;
    ``note`` then says why.
    """

    path: Path
    max_error: float | None
    note: str = ""


def export_onnx(
    path: Path,
    module: nn.Module,
    example: Tensor,
    *,
    input_name: str = "images",
    output_name: str = "embeddings",
    tolerance: float = 1e-4,
) -> OnnxExport:
    """Write a module (one tensor to one tensor, batch first, any batch size) as ONNX and check it against torch.

    ``example`` (B, ...) gives the shape and dtype of the input. The check runs the file by onnxruntime on
    batches of one and three; a difference above ``tolerance`` times (1 + the largest output) raises RunFailed
    and leaves no file. Raises UserError if the exporter is not installed or the file cannot be written.
    """
    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None:
        raise UserError("ONNX export needs the packages onnx and onnxscript: pip install 'wasskit[onnx]'.")
    training = module.training
    device = next((p.device for p in module.parameters()), example.device)
    rows = torch.arange(3, device=example.device) % len(example)
    inputs = example[rows].to(device).contiguous()
    module.eval()
    try:
        with torch.no_grad(), writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                _write_onnx(temporary, module, inputs, input_name, output_name)
                error, note = _onnx_error(temporary, module, inputs, input_name)
                scale = 1 + float(module(inputs).abs().max())
                if error is not None and not error <= tolerance * scale:
                    raise RunFailed(f"the ONNX network differs from torch's by {error:.1e}, so {path} was not written.")
    finally:
        module.train(training)
    return OnnxExport(path, error, note)


def _write_onnx(path: Path, module: nn.Module, inputs: Tensor, input_name: str, output_name: str) -> None:
    names: dict[str, Any] = {"input_names": [input_name], "output_names": [output_name]}
    # The exporter prints and warns about its own progress; none of it is for the user.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")
        if _torch_version() >= (2, 6):
            program = torch.onnx.export(
                module, (inputs,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False, **names
            )
            assert program is not None
            # Inside one file, so that it can be moved and renamed.
            program.save(str(path), external_data=False)
        else:
            axes = {input_name: {0: "batch"}, output_name: {0: "batch"}}
            torch.onnx.export(module, (inputs,), str(path), dynamic_axes=axes, **names)


def _onnx_error(path: Path, module: nn.Module, inputs: Tensor, input_name: str) -> tuple[float | None, str]:
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "The ONNX file was not checked against torch: onnxruntime is not installed."
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    errors = []
    for batch in (inputs[:1], inputs):
        (found,) = session.run(None, {input_name: batch.cpu().numpy()})
        expected = module(batch).cpu().numpy()
        errors.append(np.abs(found - expected).max())
    return float(np.max(errors)), ""  # NaN where one is, which Python's max passes over


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
