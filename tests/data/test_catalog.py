"""The catalogue: facts, search order, and no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wasskit.data.catalog import CARDS, data_root, dataset_names, find_datasets


def test_importing_it_loads_no_torch_and_no_numpy() -> None:
    code = (
        "import sys, wasskit.data.catalog as c; c.find_datasets('.');"
        "print([m for m in ('torch', 'numpy', 'PIL', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_cards_are_consistent() -> None:
    for name, card in CARDS.items():
        assert card.name == name
        assert len(card.mean) == len(card.std) == card.channels
        assert set(card.counts) <= set(card.splits)
        assert card.source
    assert "digits" in dataset_names()
    assert "cub" in dataset_names("metric")
    assert "cub" not in dataset_names("classification")


def test_the_root_is_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WASSKIT_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("WASSKIT_DATA")
    assert data_root() == Path("data")


@pytest.mark.parametrize("folder", [".", "cifar10", "CIFAR10"])
def test_a_set_is_found_in_the_root_and_under_its_names(tmp_path: Path, folder: str) -> None:
    for file in CARDS["cifar10"].files:
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_datasets(tmp_path)["cifar10"] == tmp_path / folder
    inner = tmp_path / folder / "cifar-10-batches-py"
    assert inner.parent in list(CARDS["cifar10"].candidates(inner))
    (inner / "test_batch").unlink()
    reason = find_datasets(tmp_path)["cifar10"]
    assert isinstance(reason, str)
    assert "data_batch_1" in reason


def test_a_missing_root_is_a_reason() -> None:
    found = find_datasets("/nonexistent/place")
    assert isinstance(found["digits"], Path)
    assert found["cifar10"] == "the folder /nonexistent/place is not there"
