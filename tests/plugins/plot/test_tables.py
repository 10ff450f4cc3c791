"""Tables: settings that differ, the best in bold, published figures, three formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plot.fabricate import make_run, top1_at

PAPER = {"source": "Authors, 2024, Table 1 (50% & more)", "metrics": {"test/top1": 91.0, "test/fid": 12.0}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"a{seed}", seed=seed, paper=PAPER)
        make_run(tmp_path / "runs" / f"b{seed}", seed=seed, lift=3.0, lr=0.05, paper=PAPER)
    make_run(tmp_path / "runs" / "c", lr=0.2, loss_kind="a_b", epochs=2, planned=5, finished=False)
    return tmp_path / "runs"


def test_json_rows_hold_settings_means_and_deviations(run_cli: Callable[..., Any], runs: Path) -> None:
    result = run_cli("plot", "table", runs, "--against-paper", "--json")
    assert result.exit_code == 0
    first, second, third = json.loads(result.stdout)["rows"]
    assert (first["lr"], first["seeds"], first["state"]) == ("0.1", 2, "finished")
    assert first["test/top1"] == pytest.approx(top1_at(5) + 0.5)
    assert first["test/top1 deviation"] == pytest.approx(0.5**0.5)
    assert first["test/top1 published"] == 91.0
    assert first["test/top1 difference"] == pytest.approx(top1_at(5) + 0.5 - 91)
    assert (first["test/fid"], first["test/fid published"], first["test/fid difference"]) == (None, 12.0, None)
    assert second["test/top1"] > first["test/top1"]
    assert (third["loss-kind"], third["state"], third["test/top1 published"]) == ("a_b", "unfinished", None)
    assert str(runs / "c") in result.stderr


def test_latex_has_booktabs_bold_best_and_escapes(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.tex"
    result = run_cli("plot", "table", runs, "--against-paper", "-m", "top1", "-o", path, "--caption", "50% & x_1")
    assert result.exit_code == 0
    text = path.read_text(encoding="utf-8")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{llrlrrr}"):
        assert rule in text
    best = top1_at(5, lift=3.0) + 0.5
    assert rf"\textbf{{{best:.2f}}} $\pm$ 0.71" in text
    assert text.count(r"\textbf") == 1
    assert r"a\_b" in text
    assert r"\caption{50\% \& x\_1}" in text
    assert "% Published: Authors, 2024, Table 1" in text
    assert all(line.count(" & ") == 6 for line in text.splitlines() if line.endswith(r"\\"))


def test_markdown_is_a_table_and_ties_are_all_bold(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=0.2, lift=0.001)
    make_run(tmp_path / "c", lr=0.3, lift=-1)
    lines = run_cli("plot", "table", tmp_path, "--format", "markdown").stdout.splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[1].replace("|", "").replace("-", "").replace(":", "").strip() == ""
    assert [line.count("**") for line in lines[2:]] == [2, 2, 0]


def test_csv_holds_all_digits_and_deviations_of_their_own(run_cli: Callable[..., Any], runs: Path) -> None:
    text = run_cli("plot", "table", runs, "--format", "csv", "-m", "top1", "--which", "both").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert float(rows[0]["test/top1 final"]) == pytest.approx(top1_at(5) + 0.5, abs=1e-12)
    assert float(rows[0]["test/top1 best deviation"]) == pytest.approx(0.5**0.5)
    assert rows[2]["test/top1 final deviation"] == ""


def test_a_mean_over_fewer_seeds_says_so(run_cli: Callable[..., Any], runs: Path, words: Callable[[str], str]) -> None:
    (runs / "a0" / "evaluation.json").write_text(json.dumps({"metrics": {"test/knn": 80.0}}))
    said = "Only 1 of the 2 runs of lr=0.1, loss-kind=none have test/knn"
    assert said in words(run_cli("plot", "table", runs, "-m", "knn").stderr)
    assert said in words(run_cli("plot", "table", runs, "-m", "knn", "--format", "csv").stderr)
    assert said in words(run_cli("plot", "table", runs, "-m", "knn", "--format", "markdown").stdout)


def test_runs_without_the_metric_that_decides_stand_as_they_ended(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", lr=0.2)
    log = other / "metrics.csv"
    log.write_text(log.read_text().replace(",test,top1,", ",test,accuracy,"))
    result = run_cli("plot", "table", tmp_path, "--which", "best", "--by", "test/top1")
    assert "The last evaluation of runs that have not recorded it" in (said := words(result.stdout + result.stderr))
    assert str(other) in said.replace(" ", "")


def test_small_numbers_get_more_decimals(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    shown = run_cli("plot", "table", tmp_path / "a", "--format", "csv", "-m", "train/loss", "--digits", "4").stdout
    assert shown.splitlines()[0] == "run,train/loss"
    markdown = run_cli("plot", "table", tmp_path / "a", "--format", "markdown", "-m", "train/loss").stdout
    assert "0.164" in markdown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "topp1"], "no run has recorded 'topp1'"),
        (["-o", "table.txt"], "the format is not clear"),
        (["--which", "best", "--by", "nothing"], "no run has recorded 'nothing'"),
        (["--labels", "x,y"], "--labels names 2, but there is 1 group"),
        (["--digits", "-1"], "out of range"),
    ],
)
def test_wrong_requests_are_one_sentence(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    make_run(tmp_path / "a")
    result = run_cli("plot", "table", tmp_path / "a", *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert "Traceback" not in result.stderr


def test_runs_without_published_figures_are_tabulated_and_it_is_said(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    make_run(tmp_path / "a")
    shown = run_cli("plot", "table", tmp_path / "a", "--against-paper", "--format", "csv")
    assert shown.exit_code == 0
    assert "None of the runs has published figures" in words(shown.stderr)
    assert shown.stdout == run_cli("plot", "table", tmp_path / "a", "--format", "csv").stdout


def test_differences_are_as_fine_as_the_published_figures(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    make_run(tmp_path / "a", paper={"source": "x", "metrics": {"test/top1": 91.0625}})
    text = run_cli("plot", "table", tmp_path / "a", "--against-paper", "-m", "top1", "--format", "csv").stdout
    assert "91.0625" in text
    text = run_cli("plot", "table", tmp_path / "a", "--against-paper", "-m", "top1", "--format", "markdown").stdout
    assert f"{top1_at(5):.4f}" in text
    assert f"{top1_at(5) - 91.0625:+.4f}" in text


def test_small_figures_keep_their_digits_beside_coarse_published_ones(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    """An error of 0.0312 % beside a published 0.1 is no 0.03."""
    run = make_run(tmp_path / "a", paper={"source": "x", "metrics": {"test/small": 0.1}})
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["final"]["test/small"] = 0.0312
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    words = ("--against-paper", "-m", "test/small", "--format", "markdown")
    text = run_cli("plot", "table", run, *words).stdout
    assert all(number in text for number in ("0.03120", "0.10000", "-0.06880"))
