"""Every file that a command writes has the mode that the user's umask gives new files, and every folder likewise."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("undrawn")

#: Command lines run one after the other in one folder, and a file that only the last of them writes.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "mrl": (
        [
            "mrl train --epochs 1 --run-dir run",
            "mrl embed run images --dim 4 --output features.npy",
            "mrl export run",
            "mrl retrieve run",
            "plot report run --output page.html",
        ],
        "page.html",
    ),
    "metrix": (
        ["metrix train --epochs 1 --run-dir run", "metrix search run 0", "metrix export run"],
        "run/export/model.safetensors",
    ),
    "ssl": (["ssl byol --epochs 1 --run-dir run", "ssl export run"], "run/export/model.safetensors"),
    "w2gn": (
        ["w2gn toy --steps 4 --hidden 8,8 --test-size 100 --run-dir run", "w2gn apply run/map.safetensors points.npy"],
        "run/map.safetensors",
    ),
    "study": (["study means --quick --run-dir run"], "run/means.csv"),
    "recipes": (["recipes copy mrl/imagenet100 mine.toml"], "mine.toml"),
}


@pytest.fixture(params=[0o022, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    mask: int = request.param
    previous = os.umask(mask)
    yield mask
    os.umask(previous)


@pytest.mark.slow
@pytest.mark.parametrize("plugin", COMMANDS)
def test_modes_follow_the_umask(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, plugin: str
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    commands, last = COMMANDS[plugin]
    (tmp_path / "images").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "images" / "a.png")
    np.save(tmp_path / "points.npy", np.zeros((4, 2), dtype=np.float32))
    for command in commands:
        result = run_cli(*command.split())
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / last).is_file()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))}
    wrong = {
        str(path.relative_to(tmp_path)): oct(mode)
        for path, mode in modes.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
