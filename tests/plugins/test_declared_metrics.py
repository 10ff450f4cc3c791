"""What commands record is declared: its direction, unit, heading and protocol are known wherever it is read."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wasskit.cli import load_command
from wasskit.config import fields_of
from wasskit.evaluation.metrics import COMMON, Metric, Metrics
from wasskit.plugins import BUILT_IN, Plugin, declared_metrics, load_plugin
from wasskit.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("undrawn")

QUICK = ("--epochs", "1", "--no-tensorboard")
SSL = (*QUICK, "--projector", "32,16", "--batch-size", "128")
METRIX = (*QUICK, "--batch-size", "60", "--max-triples", "300", "--embedding-size", "16")
W2GN = ("--hidden", "16,8", "--batch-size", "64", "--eval-every", "2", "--steps", "4", "--no-tensorboard")
CLOUD = (*W2GN, "--test-size", "100")
STUDY = ("--quick", "--n", "400")
IMAGES = ("--image-size", "8", "--width", "2", "--batch-size", "4", "--steps", "4")

RUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mrl train": ((*QUICK, "--dims", "2,8", "--clip-norm", "1"),),
    "mrl adapt": ((*QUICK,), (*QUICK, "--learn", "neighbours", "--wasserstein-weight", "0.1")),
    "mrl baseline": (),  # they make trainings of mrl train and mrl adapt
    "mrl sweep": (),
    "mrl adapt-sweep": (),
    "ssl moco": ((*SSL, "--lu"),),
    "ssl byol": ((*SSL, "--w2"),),
    "ssl barlow": (SSL,),
    "ssl zerocl": (SSL,),
    "ssl invariance": tuple((*SSL, "--regulariser", name) for name in ("vicreg", "sigreg", "visreg")),
    "metrix crossval": (),  # entries of its own in place of records
    "metrix train": ((*METRIX, "--validation", "0.4"), (*METRIX, "--mode", "baseline")),
    "w2gn fit": ((*W2GN, "--discrete-rows", "64"),),
    "w2gn toy": (CLOUD, (*CLOUD, "--refine", "none", "--start", "pretrain", "--pretrain-steps", "2")),
    "w2gn gaussians": ((*CLOUD, "--dim", "3"),),
    "w2gn benchmark": (CLOUD,),
    "w2gn color": ((*CLOUD, "--smooth", "0"),),
    "w2gn domain": ((*W2GN, "--classifier-steps", "4"),),
    "w2gn latent": ((*W2GN, "--autoencoder-steps", "4", "--latent", "4", "--filters", "4"),),
    "w2gn style": ((*IMAGES, "--no-tensorboard"),),
    "study all": (),  # the studies below
    "study collapse": (STUDY,),
    "study dimension": (STUDY,),
    "study fcc": (STUDY,),
    "study fbc": (STUDY,),
    "study icc": (STUDY,),
    "study density": ((*STUDY, "--n-joint", "2000"),),
    "study means": (STUDY,),
    "study measure": (("embeddings.npy",),),
    "study compare": (("embeddings.npy", "embeddings.npy", "--permutations", "19"),),
    "study predict": (),  # correlates what other runs have recorded
}
"""Each command that makes a run, as small as it goes."""

AFTER = {
    "mrl train": (("mrl", "evaluate"),),
    "ssl byol": (("ssl", "evaluate", "--probe-epochs", "1"), ("ssl", "linear", "--probe-epochs", "1"), ("ssl", "knn")),
    "metrix train": (("metrix", "evaluate"),),
}
"""Commands that measure a run of another one and record it there."""


def test_every_command_that_makes_a_run_is_here() -> None:
    plugins = map(load_plugin, BUILT_IN.values())
    commands = {f"{plugin.name} {name}": load_command(plugin, name) for plugin in plugins for name in plugin.commands}
    assert set(RUNS) == {
        path for path, command in commands.items() if "run_dir" in {f.name for f in fields_of(command.options)}
    }


def _recorded(run: Path) -> set[str]:
    """Names in ``metrics.csv``, ``summary.json`` and ``evaluation.json``, without splits."""
    names: set[str] = set()
    for path in [run, *(p.parent for p in run.rglob("config.toml"))]:
        if (path / "metrics.csv").is_file():
            names |= {row.metric for row in RunDirectory.open(path).metrics()}
        for file in ("summary.json", "evaluation.json"):
            if (path / file).is_file():
                names |= set(_keys(json.loads((path / file).read_text(encoding="utf-8"))))
    return names


def _keys(content: Any) -> list[str]:
    """The last parts of keys ``split/metric``, at any depth."""
    if not isinstance(content, dict):
        return []
    own = [key.rpartition("/")[2] for key in content if "/" in key and isinstance(content[key], int | float)]
    return own + [name for value in content.values() for name in _keys(value)]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "options"), [(path, options) for path in RUNS for options in RUNS[path]])
def test_what_is_recorded_is_declared(
    path: str, options: tuple[str, ...], run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WASSKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("embeddings.npy", generator.standard_normal((50, 4)))
    for letter in "AB":
        folder = tmp_path / "images" / f"train{letter}"
        folder.mkdir(parents=True)
        for i in range(8):
            Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    extra = ("--images", "images") if path == "w2gn style" else ()
    result = run_cli(*path.split(), *options, *extra, "--run-dir", "run", "--quiet")
    assert result.exit_code == 0, result.stderr
    for words in AFTER.get(path, ()):
        result = run_cli(*words[:2], "run", *words[2:], "--quiet")
        assert result.exit_code == 0, result.stderr
    names = _recorded(tmp_path / "run")
    assert names
    own = load_plugin(f"wasskit.plugins.{path.split()[0]}.metrics:METRICS")
    assert {name for name in names if own.find(name) is None} == set()
    assert {name for name in names if declared_metrics().find(name) is None} == set()


def test_each_metric_is_declared_once() -> None:
    declared = [*COMMON.declared]
    for plugin in map(load_plugin, BUILT_IN.values()):
        if plugin.metrics:
            declared += load_plugin(plugin.metrics).declared
    names = [metric.name for metric in declared]
    assert len(set(names)) == len(names) > 50
    assert all(metric.heading and metric.protocol and metric.unit in ("", "%") for metric in declared)


def test_other_packages_declare_theirs_and_a_broken_one_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("elsewhere")
    module.METRICS = Metrics([Metric("novelty", "max", "Novelty", "as in their paper")])  # type: ignore[attr-defined]
    module.plugin = Plugin("extra", "", {}, "elsewhere", metrics="elsewhere:METRICS")  # type: ignore[attr-defined]
    module.bare = Plugin("bare", "", {}, "elsewhere")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    points = [("extra", "elsewhere:plugin"), ("bare", "elsewhere:bare"), ("broken", "nowhere:plugin")]
    entries = EntryPoints(EntryPoint(name, value, "wasskit.plugins") for name, value in points)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: entries)
    declared_metrics.cache_clear()
    try:
        assert declared_metrics()["novelty@8"].heading == "Novelty@8"
        assert declared_metrics()["uvp_forward"].order == "min"
        assert declared_metrics()["unheard"] == Metric("unheard", None, "unheard", "")
    finally:
        declared_metrics.cache_clear()
