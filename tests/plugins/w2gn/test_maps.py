"""Saved maps: every architecture comes back, and files that are none are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.models.icnn import ConvICNN, QuadraticPotential
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.maps import load_map, save_map


def transports() -> dict[str, W2GN]:
    torch.manual_seed(0)
    x, y = torch.randn(2, 200, 3)
    pair = [QuadraticPotential(ConvICNN(8, width=3)) for _ in range(2)]
    conv = W2GN(pair[0], pair[1])
    conv.center(torch.rand(20, 3, 8, 8), torch.rand(20, 3, 8, 8))
    return {
        "gaussian": W2GN.dense(3, hidden=(5, 4), rank=2, activation="softplus", start=(x, 2 * y + 1)),
        "identity": W2GN.dense(3, hidden=(5,)),
        "plain": W2GN.dense(3, hidden=(5, 4), start="plain", strong_convexity=0.3),
        "conv": conv,
        "plain conv": W2GN(ConvICNN(8, width=3), ConvICNN(8, width=3)),
    }


@pytest.mark.parametrize("name", list(transports()))
def test_maps_come_back(tmp_path: Path, name: str) -> None:
    transport = transports()[name].eval()
    with torch.no_grad():
        for p in transport.parameters():
            p.add_(0.01 * torch.rand_like(p))
    path = save_map(tmp_path / "map.safetensors", transport, note="n")
    loaded, header = load_map(path)
    x = torch.rand(4, 3, 8, 8) if "conv" in name else torch.randn(4, 3)
    torch.testing.assert_close(loaded.forward_map(x), transport.forward_map(x))
    torch.testing.assert_close(loaded.inverse_map(x), transport.inverse_map(x))
    assert header["note"] == "n"
    assert not any(p.requires_grad for p in loaded.parameters())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = save_map(tmp_path / "map.safetensors", transports()["identity"])
    save_weights(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), {"kind": "backbone"})
    with pytest.raises(UserError, match=r"is not a model saved by `wasskit w2gn` \(it holds backbone\)"):
        load_map(tmp_path / "other.safetensors")
    _, header = load_map(path)
    rewritten(path, tmp_path / "changed.safetensors", header, hidden=[7])
    with pytest.raises(UserError, match="does not fit the model that it describes: 'psi"):
        load_map(tmp_path / "changed.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.safetensors"):
        load_map(tmp_path / "text.safetensors")


def rewritten(path: Path, destination: Path, header: dict[str, Any], **changes: Any) -> None:
    """A copy of a map whose header describes other networks."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for key, value in metadata.items():
        if "potential" in value:
            content = json.loads(value)
            content["potential"] |= changes
            metadata[key] = json.dumps(content)
    save_file(load_file(path), destination, metadata)
