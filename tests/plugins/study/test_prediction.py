"""`wasskit study predict`: the correlations are scipy's, what is measured once is kept, and what lacks is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from wasskit.evaluation.label_free import rankme
from wasskit.trained import files
from wasskit.training.run import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

Cli = Callable[..., Any]
USED = (4, 16, 8, 12, 6)
"""Coordinates that the embeddings of each run use: the more, the more accurate its probe, but for one."""
PROBES = (20.0, 70.0, 55.0, 60.0, 58.0)


def features_of(number: int) -> torch.Tensor:
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(number))
    x[:, USED[number] :] *= 0.01
    return x


def fabricate(folder: Path, evaluation: dict[str, Any]) -> Path:
    run = RunDirectory.create(folder, command="ssl moco", options={"dataset": "digits"}, resumable=False)
    (run.path / "evaluation.json").write_text(json.dumps(evaluation))
    run.checkpoints.mkdir()
    (run.checkpoints / "last.pt").write_bytes(b"weights")
    return run.path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five runs in the folder ``runs/ssl``; the files that are embedded are noted in ``embedded``."""
    monkeypatch.chdir(tmp_path)

    def embed(path: Path, device: str) -> torch.Tensor:
        with Path("embedded").open("a") as file:
            file.write(f"{path.name}\n")
        return features_of(int(path.name))

    monkeypatch.setattr(files, "embeddings_of_run", embed)
    return [
        str(
            fabricate(Path("runs/ssl") / str(i), {"digits": {"linear_top1": probe, "alignment": 1 / probe}, "usps": {}})
        )
        for i, probe in enumerate(PROBES)
    ]


def predicted(run_cli: Cli, *argv: str) -> dict[str, Any]:
    result = run_cli("study", "predict", *argv, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_measure_is_correlated(run_cli: Cli, runs: list[str]) -> None:
    found = predicted(run_cli, *runs, "--run-dir", "p")
    assert set(found["correlations"]) == {
        "w2", "lu", "mean_norm", "used_dims", "effective_rank", "rankme", "alpha_req", "alpha_req_gap", "sigreg",
        "sliced_w2", "alignment",
    }  # fmt: skip
    values = [float(rankme(features_of(i))) for i in range(5)]
    assert [row["rankme"] for row in found["runs"]] == pytest.approx(values)
    assert [row["linear_top1"] for row in found["runs"]] == list(PROBES)
    for kind, reference in (("spearman", scipy.stats.spearmanr), ("kendall", scipy.stats.kendalltau)):
        assert found["correlations"]["rankme"][kind]["value"] == pytest.approx(reference(values, PROBES).statistic)
    assert found["correlations"]["alignment"]["spearman"]["value"] == -1
    assert found["correlations"]["alignment"]["spearman"]["p"] == pytest.approx(2 / 120)
    assert Path("p/figures/prediction.png").is_file()
    with Path("p/correlations.csv").open(newline="") as file:
        rows = {row["measure"]: row for row in csv.DictReader(file)}
    assert float(rows["rankme"]["kendall"]) == found["correlations"]["rankme"]["kendall"]["value"]
    assert rows["alignment"]["spearman_low"] == ""
    assert {row.metric for row in RunDirectory.open(Path("p")).metrics()} >= {"rankme_spearman", "w2_kendall"}


def test_what_was_measured_is_kept(run_cli: Cli, runs: list[str]) -> None:
    """Of the last checkpoint and seed alone; --recompute measures all again."""
    first = predicted(run_cli, "runs/ssl", "--run-dir", "a")
    embedded = Path("embedded")
    assert embedded.read_text().split() == ["0", "1", "2", "3", "4"]
    embedded.write_text("")
    assert predicted(run_cli, "runs/ssl", "--run-dir", "b")["correlations"] == first["correlations"]
    assert embedded.read_text() == ""
    (Path(runs[2]) / "checkpoints" / "last.pt").write_bytes(b"other weights")
    Path(runs[3], "label_free.json").write_text("[]")
    predicted(run_cli, "runs/ssl", "--run-dir", "c")
    assert embedded.read_text().split() == ["2", "3"]
    embedded.write_text("")
    predicted(run_cli, "runs/ssl", "--run-dir", "d", "--recompute")
    assert len(embedded.read_text().split()) == 5


def test_one_accuracy_for_all_runs_predicts_nothing(run_cli: Cli, runs: list[str], words: Callable[[str], str]) -> None:
    for run in runs:
        (Path(run) / "evaluation.json").write_text(json.dumps({"digits": {"linear_top1": 50.0}}))
    result = run_cli("study", "predict", *runs, "--run-dir", "p", "--json")
    assert "All runs have the same linear top-1" in words(result.stderr)
    assert set(json.loads(result.stdout)["correlations"].values()) == {None}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("runs/ssl/0 runs/ssl/1 runs/ssl/0", "A rank correlation needs at least 3 runs, these are 2"),
        ("runs/ssl/0", "this is 1: name more run directories."),
        ("runs", "runs holds no run: neither it nor a folder right below it has a config.toml."),
        ("runs/ssl/0 nowhere runs/ssl/1", "There is no run directory nowhere."),
        ("runs/ssl --accuracy knn5_top1", "5 of 5 runs have no knn5_top1 of their test images, the first is "
         "runs/ssl/0; or name by --accuracy what all have (linear_top1)."),
        ("runs/ssl without", "1 of 6 runs have no linear_top1 of their test images, the first is without: "
         "call wasskit ssl linear without"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_sentence(
    run_cli: Cli, words: Callable[[str], str], runs: list[str], argv: str, said: str
) -> None:
    fabricate(Path("without"), {"digits": {"w2": 1.0}})
    result = run_cli("study", "predict", *argv.split())
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert not Path("runs/study").exists()
    assert not Path("embedded").exists()


@pytest.mark.slow
def test_trained_runs(run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three short trainings; W2 is what each has measured of its own last epoch."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        run_cli(
            "ssl", "barlow", "--projector", "32,16", "--epochs", "1", "--backbone", "tiny", "--seed", str(seed),
            "--run-dir", f"r{seed}", "-q",
        )  # fmt: skip
    final = RunDirectory.open(Path("r0")).summary["final"]  # type: ignore[index]
    (accuracy,) = [name.removeprefix("test/") for name in final if name.startswith("test/knn") and "top1" in name]
    found = predicted(run_cli, "r0", "r1", "r2", "--accuracy", accuracy, "--run-dir", "p")
    assert found["runs"][0]["w2"] == pytest.approx(final["test/w2"], abs=1e-4)
    assert found["runs"][0][accuracy] == final[f"test/{accuracy}"]
    assert np.isfinite(found["correlations"]["rankme"]["spearman"]["value"])
