"""Every command that measures, searches, embeds or exports on a logical CUDA device: no operation mixes devices, and
what it says is what it says on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.gpu.device import LogicalCuda
from tests.trust.commands import TRAININGS
from wasskit.cli import load_command, run
from wasskit.config import fields_of
from wasskit.plugins import Plugin, load_plugin, plugin_targets

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

TRAINED = {"mrl": "mrl-train", "ssl": "ssl-byol", "metrix": "metrix-contrastive-baseline", "w2gn": "w2gn-fit"}
"""What each plugin's measures are of. Words below that name one stand for its run."""

MEASURES = [
    ("mrl", "evaluate", "MRL"), ("mrl", "retrieve", "MRL"), ("mrl", "classify", "MRL"),
    ("mrl", "embed", "MRL", "photos", "--output", "mrl.npy"), ("mrl", "export", "MRL", "--output", "mrl.safetensors"),
    ("ssl", "linear", "SSL", "--probe-epochs", "2"), ("ssl", "knn", "SSL"),
    ("ssl", "evaluate", "SSL", "--probe-epochs", "2"),
    ("ssl", "embed", "SSL", "photos", "--output", "ssl.npy"), ("ssl", "export", "SSL", "--output", "ssl.safetensors"),
    ("metrix", "evaluate", "METRIX"), ("metrix", "search", "METRIX", "0"),
    ("metrix", "embed", "METRIX", "photos", "--output", "metrix.npy"),
    ("metrix", "export", "METRIX", "--output", "metrix.safetensors"),
    ("w2gn", "apply", "W2GN", "vectors.npy", "--output", "moved.npy"),
    ("w2gn", "export", "W2GN", "--output", "w2gn.safetensors"),
    ("study", "measure", "points.npy"), ("study", "measure", "SSL"),
    ("study", "compare", "points.npy", "others.npy", "--permutations", "20"),
]  # fmt: skip

SIMULATED = {"study density", "study collapse", "study dimension", "study fcc", "study fbc", "study icc", "study means"}
"""Draw their own points for the measures of `study measure`."""
OF_OTHERS = {"study all", "study predict", "metrix crossval"}
"""Run those, or trainings, one after another."""


def test_every_command_with_a_device_is_here() -> None:
    found = set()
    for target in plugin_targets().values():
        plugin = load_plugin(target)
        for name in plugin.commands if isinstance(plugin, Plugin) else ():
            command = load_command(plugin, name)
            names = {field.name for field in fields_of(command.options)}
            if "device" in names and "resume" not in names:
                found.add(command.path)
    assert found == {" ".join(words[:2]) for words in MEASURES} | SIMULATED | OF_OTHERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points, photographs, and a run of each plugin."""
    folder = tmp_path_factory.mktemp("measures")
    draw = np.random.default_rng(0)
    for name, size in (("points", (60, 6)), ("others", (60, 6)), ("vectors", (40, 16))):
        np.save(folder / f"{name}.npy", draw.standard_normal(size, dtype=np.float32))
    (folder / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (60 * number, 10, 0)).save(folder / "photos" / f"{number}.png")
    for plugin, name in TRAINED.items():
        training = next(one for one in TRAININGS if one.name == name)
        assert run([*training.briefly(folder / plugin.upper(), "cpu"), "--quiet"]) == 0
    return folder


def numbers(value: Any, at: str = "") -> dict[str, float]:
    """All numbers of a result but times, by where they are."""
    if isinstance(value, dict):
        return {k: x for key, entry in value.items() for k, x in numbers(entry, f"{at}/{key}").items()}
    if isinstance(value, list):
        return {k: x for i, entry in enumerate(value) for k, x in numbers(entry, f"{at}/{i}").items()}
    return {at: float(value)} if isinstance(value, int | float) and "second" not in at else {}


@pytest.mark.parametrize("words", MEASURES, ids=" ".join)
def test_a_measure_on_the_device_is_that_of_the_cpu(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    """The same operations are computed, so the same numbers but for the order of sums, which may follow the device:
    a float32 sum over at most 10^4 entries, 1e-3 of it at worst."""
    monkeypatch.chdir(tmp_path)
    given = [str(folder / word) if (folder / word).exists() else word for word in words]
    found = []
    for device in ("cpu", "cuda"):
        line = [*given, "--device", device, "--json", *(["--overwrite"] if "--output" in words else [])]
        if "photos" in words:
            line += ["--workers", "0"]
        if words[0] == "study":
            line += ["--run-dir", str(tmp_path / device)]
        if device == "cuda":
            with LogicalCuda():
                code = run(line)
        else:
            code = run(line)
        said = capfd.readouterr()
        assert code == 0, said.err[-3000:]
        found.append(numbers(json.loads(said.out)))
    assert list(found[0]) == list(found[1])
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5, nan_ok=True)
