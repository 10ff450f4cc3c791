from __future__ import annotations

from pathlib import Path

import pytest

from wasskit.errors import UserError
from wasskit.trained.files import data_root_of, is_exported, results_folder
from wasskit.training.run import RunDirectory


def trained(path: Path, **options: object) -> Path:
    run = RunDirectory.create(path, command="metrix train", options=dict(options), seed=0)
    run.checkpoints.mkdir()
    (run.checkpoints / "last.pt").touch()
    return run.path


def test_results_go_to_the_run_or_beside_the_weights(tmp_path: Path) -> None:
    run = trained(tmp_path / "r", dataset="cub")
    weights = tmp_path / "elsewhere" / "model.safetensors"
    assert results_folder(run, None, plugin="metrix") == run
    assert results_folder(run / "checkpoints" / "last.pt", None, plugin="metrix") == run
    assert results_folder(weights, None, plugin="metrix") == weights.parent
    for model in (run, weights):
        assert results_folder(model, tmp_path / "asked", plugin="metrix") == tmp_path / "asked"
    with pytest.raises(UserError, match="metrix train"):
        results_folder(run, None, plugin="ssl")


def test_the_data_root_is_that_of_the_run(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = trained(tmp_path / "r", dataset="cub", data_root=str(data))
    assert data_root_of(run, plugin="metrix") is None, "it is not there any more"
    data.mkdir()
    for model in (run, run / "checkpoints" / "last.pt"):
        assert data_root_of(model, plugin="metrix") == data
        assert data_root_of(model, "cub", plugin="metrix") == data
        assert data_root_of(model, "cars", plugin="metrix") is None, "another set may lie elsewhere"
    assert data_root_of(tmp_path / "model.safetensors", plugin="metrix") is None
    assert data_root_of(trained(tmp_path / "s", dataset="digits"), plugin="metrix") is None


def test_a_folder_may_be_named_as_weights_are(tmp_path: Path) -> None:
    assert is_exported(tmp_path / "model.safetensors")
    run = trained(tmp_path / "r.safetensors", dataset="digits")
    assert not is_exported(run)
    assert results_folder(run, None, plugin="metrix") == run
