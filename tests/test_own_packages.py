"""The packages that the guides to one's own method and backbone have their reader write."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wasskit.models.catalog import registered_backbones
from wasskit.plugin import declared_metrics
from wasskit.system.documents import read_toml

ROOT = Path(__file__).resolve().parents[1]
FOUND = (declared_metrics, registered_backbones)


def install(guide: str, module: str, folder: Path) -> Path:
    """The module of a guide as an installed package in ``folder``: its code, and what pip makes of the project file."""
    text = (ROOT / "docs" / "guides" / guide).read_text(encoding="utf-8")
    code, project = (re.search(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL) for kind in ("python", "toml"))
    assert code is not None
    assert project is not None
    (folder / f"{module}.py").write_text(code[1], encoding="utf-8")
    (folder / "pyproject.toml").write_text(project[1], encoding="utf-8")
    declared = read_toml(folder / "pyproject.toml")["project"]
    info = folder / f"{module}-{declared['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in declared["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("guide", "module"), [("your-own-method.md", "rotations"), ("your-own-backbone.md", "small_net")]
)
def test_folders_beside_the_module_are_not_packaged_in_its_place(
    guide: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.chdir(install(guide, module, tmp_path))
    for beside in ("photos", "runs/mrl/digits"):
        (tmp_path / beside).mkdir(parents=True)
    distribution = setuptools.Distribution()
    distribution.parse_config_files(["pyproject.toml"])
    distribution.set_defaults()
    assert distribution.py_modules == [module]
    assert not distribution.packages


@pytest.fixture
def carry_out(
    tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], str]]:
    """Run a command line where the packages of the test's folder are installed; what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(line: str) -> str:
        importlib.invalidate_caches()
        for cached in FOUND:  # among the packages of before
            cached.cache_clear()
        done = run_cli(*line.split())
        assert done.exit_code == 0, f"wasskit {line}: {done.stderr[-2000:]}"
        return str(done.stdout)

    yield run
    for cached in FOUND:
        cached.cache_clear()


@pytest.mark.slow
def test_a_method_in_one_file_has_what_every_method_has(tmp_path: Path, carry_out: Callable[[str], str]) -> None:
    folder = install("your-own-method.md", "rotations", tmp_path)
    carry_out("rotations train --epochs 2 --no-tensorboard")
    run = folder / "runs" / "rotations" / "digits"
    values = (run / "metrics.csv").read_text(encoding="utf-8")
    # Chance is 10 % for the classes and 25 % for the rotations.
    accuracy = [float(v) for v in re.findall(r"^.*test,knn10_top1,(.*)$", values, flags=re.MULTILINE)]
    assert len(accuracy) == 2
    assert accuracy[-1] > 60
    told = [float(v) for v in re.findall(r"^.*train,rotation,(.*)$", values, flags=re.MULTILINE)]
    assert told[-1] > 60
    carry_out("rotations export runs/rotations/digits --output net.safetensors")
    assert (folder / "net.safetensors").is_file()
    assert "rotations told" in carry_out("plot table runs/rotations/digits --metric train/rotation --format markdown")
    assert "Features from rotations." in carry_out("--help")


@pytest.mark.slow
def test_a_network_of_ones_own_is_a_backbone(tmp_path: Path, carry_out: Callable[[str], str]) -> None:
    folder = install("your-own-backbone.md", "small_net", tmp_path)
    carry_out("metrix train --backbone small-net --compare no --epochs 1 --no-tensorboard --name own")
    carry_out("metrix export runs/metrix/own --output own.safetensors")
    state = torch.load(folder / "runs" / "metrix" / "own" / "checkpoints" / "last.pt", weights_only=True)
    assert state["extra"]["model"]["backbone"] == "small-net"
    assert any(name.endswith("backbone.net.0.weight") and t.shape[:2] == (48, 1) for name, t in state["task"].items())
