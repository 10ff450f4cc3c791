"""Models of the Hugging Face hub, on local folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wasskit
from wasskit.errors import UserError

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wasskit.cli import run as run_command

    path = tmp_path_factory.mktemp("hub") / "run"
    words = ("mrl", "train", "--dims", "2,4,8", "--epochs", "1", "--no-tensorboard", "--quiet", "--run-dir", str(path))
    assert run_command(list(words)) == 0
    return path


def test_saved_and_loaded_it_embeds_the_same(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    wasskit.HubModel(run).save_pretrained(folder)
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = wasskit.load(run).embed(images)
    assert torch.equal(wasskit.HubModel.from_pretrained(folder).embed(images), expected)
    assert torch.equal(wasskit.HubModel.from_pretrained(folder).embed(images, dim=4), expected[:, :4])
    assert torch.equal(wasskit.HubModel.from_pretrained(folder).embed(images.numpy()), expected)
    # The file is an export like any other.
    assert torch.equal(wasskit.load(folder / "model.safetensors").embed(images), expected)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "A model of wasskit mrl" in card
    assert "library_name: wasskit" in card
    assert "license" not in card, "under which licence a trained model is shared, its owner says"


def test_the_card_of_a_model_of_vectors_says_what_it_takes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    adaptor = wasskit.MatryoshkaAdaptor(dims=(2, 4), epochs=1).fit(rows)
    adaptor.save(tmp_path / "adaptor.safetensors")
    wasskit.HubModel(tmp_path / "adaptor.safetensors").save_pretrained(tmp_path / "model")
    model = wasskit.HubModel.from_pretrained(tmp_path / "model")
    expected = wasskit.load(tmp_path / "adaptor.safetensors").embed(torch.from_numpy(rows))
    assert torch.equal(model.embed(rows), expected)
    assert "model.embed(vectors)  # (N, D), or a file" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_what_is_uploaded_is_the_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    uploaded: dict[str, Any] = {}

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **more: Any) -> str:
        uploaded[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
        return "done"

    class Created:
        repo_id = "me/mine"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **more: Created())
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    wasskit.HubModel(str(run)).push_to_hub("me/mine")
    assert uploaded == {"me/mine": ["README.md", "config.json", "model.safetensors"]}


def test_nothing_is_fetched_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"(?i)cannot find|offline"):
        wasskit.HubModel.from_pretrained("me/mine", local_files_only=True, cache_dir=tmp_path)


def test_folders_without_a_model(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        wasskit.HubModel.from_pretrained(tmp_path)
    with pytest.raises(UserError):
        wasskit.HubModel(tmp_path)
