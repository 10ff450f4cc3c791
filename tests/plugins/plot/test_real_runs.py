"""Runs that the other commands have made, shortened: plotted where they are and after a move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RUNS = {
    "mrl": ["mrl", "train", "--epochs", "2"],
    "ssl": ["ssl", "byol", "--w2", "--epochs", "2", "--eval-every", "1"],
    "metrix": ["metrix", "train", "--epochs", "2"],
    "w2gn": ["w2gn", "toy", "--steps", "20", "--hidden", "16,16", "--test-size", "200"],
    "study": ["study", "collapse", "--quick"],
}


@pytest.mark.slow
@pytest.mark.parametrize("plugin", RUNS)
def test_default_runs_are_plotted(run_cli: Callable[..., Any], tmp_path: Path, plugin: str) -> None:
    path = tmp_path / "here" / plugin
    made = run_cli(*RUNS[plugin], "--run-dir", path, "--quiet")
    assert made.exit_code == 0, made.stderr
    (tmp_path / "there").mkdir()
    moved = Path(shutil.move(path, tmp_path / "there" / plugin))

    result = run_cli("plot", "compare", moved, "-o", tmp_path / "compare", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Warning" not in result.stderr
    assert {Path(p).stem for p in json.loads(result.stdout)["figures"]} >= {"compare-metrics", "compare-bars"}
    for command in ("curves", "table", "report"):
        result = run_cli("plot", command, moved, "--json", "-o", tmp_path / f"{command}.{_suffix(command)}")
        assert result.exit_code == 0, result.stderr
    rows = json.loads(run_cli("plot", "table", moved, "--json").stdout)["rows"]
    assert len(rows) == 1
    assert any(isinstance(value, float) and np.isfinite(value) for value in rows[0].values())
    figures = {figure.name for figure in (moved / "figures").glob("*.png")}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert figures
    assert all(f'alt="{name}"' in page for name in figures)

    special = {"mrl": [["dims"]], "ssl": [["spectrum"]], "w2gn": [["transport"]], "study": [["dims"]]}
    for words in special.get(plugin, []):
        result = run_cli("plot", *words, moved, "-o", tmp_path / "special.png")
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "special.png").stat().st_size > 10_000


def _suffix(command: str) -> str:
    return {"curves": "pdf", "table": "tex", "report": "html"}[command]


@pytest.mark.slow
def test_adaptive_retrieval_is_drawn_against_its_cost(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_cli("mrl", "train", "--epochs", "1", "--run-dir", run, "--quiet").exit_code == 0
    for command in ("retrieve", "classify"):
        assert run_cli("mrl", command, run, "--quiet").exit_code == 0
    for words, cost in ((["-m", "map10"], "operations"), (["-m", "top1", "--cost", "mean_dim"], "mean_dim")):
        result = run_cli("plot", "retrieval", run, *words, "-o", tmp_path / f"{cost}.png", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["cost"] == cost
