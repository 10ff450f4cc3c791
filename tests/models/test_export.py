"""Exported weights come back whole, exported networks give the same outputs."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wasskit import __version__
from wasskit.errors import RunFailed, UserError
from wasskit.models import export
from wasskit.models.backbones import build_backbone
from wasskit.models.export import export_onnx, load_weights, save_weights


def test_weights_and_header_come_back(tmp_path: Path) -> None:
    backbone = build_backbone("tiny", image_size=8, channels=1)
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(path, backbone, {"backbone": "tiny", "dims": [8, 16], "classes": ["naïve", "Ω"]})
    state, header = load_weights(path)
    assert header == {"backbone": "tiny", "dims": [8, 16], "classes": ["naïve", "Ω"], "version": __version__}
    assert state.keys() == backbone.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]
    # The same file serves as weights of a backbone.
    again = build_backbone("tiny", image_size=8, channels=1, weights=path)
    assert torch.equal(again.get_parameter("net.0.0.weight"), backbone.get_parameter("net.0.0.weight"))


def test_shared_and_transposed_tensors_are_stored(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path / "a.safetensors", {"x": base, "same": base, "turned": base.T}, {})
    state, _ = load_weights(tmp_path / "a.safetensors")
    assert torch.equal(state["same"], base)
    assert torch.equal(state["turned"], base.T)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="no file of weights"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no wasskit header"):
        load_weights(path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_weights(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        save_weights(tmp_path / "file" / "a.safetensors", {"x": torch.zeros(1)}, {})


@pytest.mark.slow
def test_onnx_gives_the_same_embeddings_for_any_batch_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(build_backbone("tiny", image_size=8, channels=1), nn.Linear(256, 16)).train()
    path = tmp_path / "network.onnx"
    result = export_onnx(path, network, torch.randn(2, 1, 8, 8))
    assert network.training
    assert result.max_error is not None
    assert result.max_error < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    images = torch.randn(7, 1, 8, 8)
    (found,) = onnxruntime.InferenceSession(str(path)).run(["embeddings"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network.eval()(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_that_differs_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(export, "_onnx_error", lambda *_: (0.5, ""))
    with pytest.raises(RunFailed, match=r"differs from torch's by 5.0e-01"):
        export_onnx(tmp_path / "network.onnx", nn.Linear(3, 2), torch.zeros(1, 3))
    monkeypatch.setattr(export, "_onnx_error", lambda *_: (float("nan"), ""))
    with pytest.raises(RunFailed):
        export_onnx(tmp_path / "network.onnx", nn.Linear(3, 2), torch.zeros(1, 3))
    assert not list(tmp_path.iterdir())


def test_onnx_that_gives_no_numbers_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, _: object, given: dict[str, Any]) -> list[Any]:
            return [np.full((len(given["images"]), 2), np.nan, np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with torch.no_grad():
        error, _ = export._onnx_error(tmp_path, nn.Linear(3, 2), torch.zeros(3, 3), "images")
    assert error is not None
    assert math.isnan(error)


@pytest.mark.slow
def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    find_spec = importlib.util.find_spec
    absent = "onnxruntime"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name))
    result = export_onnx(tmp_path / "network.onnx", nn.Linear(3, 2), torch.zeros(1, 3))
    assert result.max_error is None
    assert "onnxruntime is not installed" in result.note
    absent = "onnxscript"
    with pytest.raises(UserError, match=r"pip install 'wasskit\[onnx\]'"):
        export_onnx(tmp_path / "network.onnx", nn.Linear(3, 2), torch.zeros(1, 3))
