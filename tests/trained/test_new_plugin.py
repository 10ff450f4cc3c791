"""A plugin declared here has load, embed and export by its one declaration."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import wasskit
from wasskit import cli, plugin
from wasskit.config import OptionGroup, option
from wasskit.data.registry import load_dataset
from wasskit.errors import UserError
from wasskit.models.backbones import build_backbone
from wasskit.models.rebuild import is_count
from wasskit.options import BackboneOptions
from wasskit.plugins import Plugin
from wasskit.trained.files import checkpoint_entry
from wasskit.trained.kind import ModelKind, describe_images
from wasskit.training.checkpoint import save_checkpoint
from wasskit.training.run import RunDirectory

Cli = Callable[..., Any]


@dataclass(frozen=True)
class Model:
    network: nn.Sequential
    description: Mapping[str, Any]


def build(description: Mapping[str, Any]) -> Model:
    backbone = build_backbone(description["backbone"], image_size=description["image_size"], channels=1)
    head = nn.Linear(backbone.num_features, description["width"])
    return Model(nn.Sequential(backbone, head), description)


@dataclass(frozen=True, kw_only=True)
class Choices(OptionGroup):
    first: int | None = option(None, help="Coordinates that are kept.", min=1)


class Kept(nn.Module):
    def __init__(self, network: nn.Module, first: int | None) -> None:
        super().__init__()
        self.network, self.first = network, first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.network(images)[:, : self.first]
        return embeddings


KIND = ModelKind(
    name="toy",
    build=build,
    weights=lambda model: model.network,
    embedder=lambda model, first=None: Kept(model.network, first),
    rules={"width": is_count},
)
PLUGIN = Plugin(
    name="toy",
    help="A plugin of one declaration.",
    commands={"embed": "Embed a folder of images.", "export": "Export the weights."},
    package="no.commands.of.its.own",
    model="declared_here:KIND",
    choices="declared_here:Choices",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of an untrained model, the plugin being installed."""
    module = ModuleType("declared_here")
    vars(module).update(plugin=PLUGIN, KIND=KIND, Choices=Choices)
    monkeypatch.setitem(sys.modules, "declared_here", module)
    targets = {**plugin.BUILT_IN, "toy": "declared_here:plugin"}
    for where in (cli, plugin):
        monkeypatch.setattr(where, "plugin_targets", lambda: targets)
    torch.manual_seed(0)
    digits = load_dataset("digits", "train")
    model = build({**describe_images("toy", BackboneOptions(), digits, large="resnet18"), "width": 3})
    path = RunDirectory.create(tmp_path / "run", command="toy train", options={}, seed=0).path
    (path / "checkpoints").mkdir()
    state = {"task": model.network.state_dict(), "extra": checkpoint_entry(model.description)}
    save_checkpoint(path / "checkpoints" / "last.pt", state)
    return path


def test_it_is_loaded_embedded_and_exported(run: Path, run_cli: Cli, tmp_path: Path) -> None:
    images = load_dataset("digits", "test").images
    assert images is not None
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(images[number, 0].numpy()).save(tmp_path / "photos" / f"{number}.png")
    expected = wasskit.load(run).embed(images[:3])
    assert expected.shape == (3, 3)
    result = run_cli(
        "toy", "embed", run, tmp_path / "photos", "--workers", "0", "-o", tmp_path / "e.npy", "--first", "2"
    )
    assert result.exit_code == 0, result.stderr
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "e.npy")), expected[:, :2])
    result = run_cli("toy", "export", run, "-o", tmp_path / "toy", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said == {"weights": str(tmp_path / "toy.safetensors"), "width": 3}
    assert torch.equal(wasskit.load(said["weights"]).embed(images[:3]), expected)
    with pytest.raises(UserError, match=r"is not a model saved by `wasskit mrl` \(it holds toy\)"):
        plugin.load_plugin("wasskit.plugins.mrl.trained:KIND").load(Path(said["weights"]))


def test_its_help_says_what_is_its_own(run: Path, run_cli: Cli) -> None:
    shown = run_cli("toy", "embed", "--help").stdout
    assert "Coordinates that are kept." in shown
    assert "wasskit toy embed runs/toy/NAME photos/" in shown
    assert "Export the weights." in run_cli("toy", "--help").stdout
