"""The page of results: means over seeds with their provenance, files as tables, what was not measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plot.fabricate import make_run, top1_at

PAPER = {"source": "Authors, 2024, Table 1", "metrics": {"test/top1": 91.0}}
PLAN = """
title = "What was measured"
introduction = "All of it."

[[table]]
title = "Rates"
text = "Top-1 of the test images."
command = "wasskit mrl sweep lr=0.1,0.05 seed=0,1"
runs = ["rates/*"]
metrics = ["test/top1"]
digits = 3
labels = ["fast", "slow"]

[[table]]
title = "Folds"
command = "wasskit metrix crossval"
files = ["folds/*.csv"]
where = {kind = "score"}
columns = ["loss", "MAP@R"]

[[table]]
title = "ImageNet-100"
command = "wasskit mrl train --recipe mrl/imagenet100"
runs = ["imagenet100*"]
needs = "a GPU with 40 GB"
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        for name, rate in (("a", 0.1), ("b", 0.05)):
            run = make_run(tmp_path / "runs" / "rates" / f"{name}{seed}", seed=seed, lr=rate, paper=PAPER)
            environment = {
                "started": f"2026-01-0{seed + 1}T10:00:00+00:00",
                "versions": {"torch": "2.4.1", "numpy": "1.26"},
                "device": {"type": "cpu", "name": "Some CPU", "ranks": 1, "threads": 2},
            }
            (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    make_run(tmp_path / "runs" / "rates" / "c", lr=0.2, epochs=2, planned=5, finished=False)
    folds = tmp_path / "runs" / "folds"
    folds.mkdir()
    rows = ("loss,kind,MAP@R", "contrastive,score,0.123456", "<b>,score,1", "left out,difference,2", "short,score")
    (folds / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    return tmp_path / "runs"


def test_page_has_means_provenance_files_and_what_is_missing(
    run_cli: Callable[..., Any], runs: Path, tmp_path: Path
) -> None:
    page = tmp_path / "RESULTS.md"
    result = run_cli("plot", "results", tmp_path / "plan.toml", "--runs", runs, "-o", page, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["missing"] == ["ImageNet-100"]
    text = page.read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# What was measured", "## Rates", "## Folds", "## ImageNet-100"]
    rates, folds, missing = text.split("## ")[1:]
    # The mean of two seeds, their deviation, and the published figure beside; the unfinished run is left out.
    assert f"{top1_at(5) + 0.5:.3f} ± 0.707" in rates
    assert "91.000" in rates
    assert "fast" in rates
    assert "slow" in rates
    assert "Seeds 0, 1; Some CPU, 2 threads; torch 2.4.1; 2026-01-01 to 2026-01-02;" in rates
    assert "```bash\nwasskit mrl sweep lr=0.1,0.05 seed=0,1\n```" in rates
    assert "| contrastive | 0.1235 |" in folds
    assert "| &lt;b&gt; | 1 |" in folds
    assert "| short |  |" in folds
    assert "| loss | MAP@R |\n| --- | --- |" in folds
    assert "left out" not in folds
    assert "Not measured: it needs a GPU with 40 GB." in missing
    assert "wasskit mrl train --recipe mrl/imagenet100" in missing


def test_the_committed_page_is_that_of_the_committed_tables(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    page = tmp_path / "RESULTS.md"
    result = run_cli("plot", "results", root / "docs/results.toml", "--runs", root / "docs/results", "-o", page)
    assert result.exit_code == 0, result.output
    assert page.read_text(encoding="utf-8") == (root / "RESULTS.md").read_text(encoding="utf-8")


def test_page_that_is_there_is_kept_unless_replaced(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("mine", encoding="utf-8")
    command = ("plot", "results", tmp_path / "plan.toml", "--runs", runs, "-o", page)
    assert run_cli(*command).exit_code == 2
    assert page.read_text(encoding="utf-8") == "mine"
    assert run_cli(*command, "--overwrite").exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("# What was measured")


def test_a_column_is_spread_over_the_headings(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    grid = runs / "grid"
    grid.mkdir()
    lines = ["setting,metric,dimension,mean,deviation"]
    lines += [f"{name},{metric},{d},{d}.25,0.125" for name in "ab" for metric in ("nn1", "other") for d in (8, 16)]
    (grid / "table.csv").write_text("\n".join([*lines, "c,nn1,16,1,", "d,nn1,8,1,1"]) + "\n", encoding="utf-8")
    for seed in (3, 4):
        make_run(grid / f"lr-1__seed-{seed}", seed=seed)
    (grid / "config.toml").write_text('command = "mrl sweep"\n', encoding="utf-8")
    plan = """
    [[table]]
    title = "Grid"
    command = "wasskit mrl sweep"
    files = ["grid/table.csv"]
    where = {metric = "nn1", setting = "a|b|c"}
    columns = ["setting"]
    across = "dimension"
    cell = "{mean:.2f} ± {deviation:.2f}"
    names = {setting = "", a = "first"}
    """
    (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
    page = tmp_path / "page.md"
    kept = tmp_path / "kept"
    result = run_cli("plot", "results", tmp_path / "plan.toml", "--runs", runs, "-o", page, "--keep", kept)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "|  | 8 | 16 |\n| --- | --- | --- |\n| first | 8.25 ± 0.12 | 16.25 ± 0.12 |\n| b |" in text
    assert "| c |  | 1.00 ± - |" in text
    assert "| d |" not in text
    assert "Seeds 3, 4" in text
    assert {path.name for path in (kept / "grid").iterdir()} == {"table.csv", "environment.json"}
    (tmp_path / "words.toml").write_text(plan.replace("{mean:.2f}", "{setting}"), encoding="utf-8")
    words = run_cli("plot", "results", tmp_path / "words.toml", "--runs", runs, "-o", tmp_path / "words.md")
    assert words.exit_code == 2
    assert "takes columns of numbers: could not convert string to float: 'a'." in " ".join(words.stderr.split())
    again = run_cli("plot", "results", tmp_path / "plan.toml", "--runs", kept, "-o", tmp_path / "again.md")
    assert again.exit_code == 0, again.output
    table, told = (tmp_path / "again.md").read_text(encoding="utf-8").split("\n\n")[2:4]
    assert table in text
    assert told.removesuffix(".") in text, "machine, versions and date too"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("title = 'x'", "has no [[table]]"),
        ("[[table]]\ntitle = 'x'", "table 1: it has no command"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nrun = ['z']", "table 1: 'run' is not one of title, command"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nruns = 'z'", "table 1: runs must be a list of texts"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nruns = ['../z']", "is not a pattern of paths below"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\ndigits = 2.5", "digits must be a whole number from 0 to 10"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nwhich = 'last'", "it must be final or best"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nwhere = {a = 1}", "where must be a table of texts"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nacross = 'a'", "across and cell go together"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nacross = 'a'\ncell = '{b'", "cell is '{b'"),
        ("[[table]]\ntitle = 'x'\ncommand = 'y'\nacross = 'a'\ncell = '{b:q}'", "Unknown format code"),
        ("[[table]]\ntitle = 3\ncommand = 'y'", "table 1: title must be a text"),
        ("titel = 'x'", "Did you mean 'title'?"),
    ],
)
def test_plans_that_cannot_be_followed(run_cli: Callable[..., Any], tmp_path: Path, plan: str, message: str) -> None:
    (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
    page = tmp_path / "RESULTS.md"
    result = run_cli("plot", "results", tmp_path / "plan.toml", "--runs", tmp_path, "-o", page)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not page.exists()


def test_columns_that_a_file_has_not_are_named(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace('"MAP@R"]', '"MAP@K"]'), encoding="utf-8")
    result = run_cli("plot", "results", plan, "--runs", runs, "-o", tmp_path / "page.md")
    assert result.exit_code == 2
    assert "has no column 'MAP@K': it has loss, kind, MAP@R. Did you mean 'MAP@R'?" in " ".join(result.stderr.split())


def test_kept_runs_are_small_and_give_the_same_table(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    plan, kept = tmp_path / "runs.toml", tmp_path / "kept"
    plan.write_text(PLAN.partition('[[table]]\ntitle = "Folds"')[0], encoding="utf-8")
    pages = [tmp_path / "page.md", tmp_path / "again.md"]
    result = run_cli("plot", "results", plan, "--runs", runs, "-o", pages[0], "--keep", kept)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (kept / "rates").iterdir()) == ["a0", "a1", "b0", "b1"], "c is not finished"
    names = {path.name for path in (kept / "rates" / "a0").iterdir()}
    assert names == {"config.toml", "environment.json", "metrics.csv", "summary.json"}
    lines = [len((folder / "rates" / "a0" / "metrics.csv").read_text().splitlines()) for folder in (runs, kept)]
    assert 1 < lines[1] < lines[0]
    again = run_cli("plot", "results", plan, "--runs", kept, "-o", pages[1])
    assert again.exit_code == 0, again.output
    assert pages[0].read_text(encoding="utf-8") == pages[1].read_text(encoding="utf-8")


def test_runs_are_in_the_order_of_their_numbers(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    for lr in (4, 16, 2):
        make_run(tmp_path / "runs" / f"run-{lr}", lr=lr, paper=PAPER)
    plan = '[[table]]\ntitle = "t"\ncommand = "c"\nruns = ["run-*"]\nmetrics = ["test/top1"]\n'
    (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
    page = tmp_path / "page.md"
    assert run_cli("plot", "results", tmp_path / "plan.toml", "--runs", tmp_path / "runs", "-o", page).exit_code == 0
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["2", "4", "16"]


def test_a_run_without_metrics_is_kept_too(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    record = make_run(tmp_path / "runs" / "run-1") / "metrics.csv"
    record.write_text(record.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    plan = '[[table]]\ntitle = "t"\ncommand = "c"\nruns = ["run-*"]\nmetrics = ["test/top1"]\n'
    (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
    words = ("plot", "results", tmp_path / "plan.toml", "--runs", tmp_path / "runs", "-o", tmp_path / "page.md")
    result = run_cli(*words, "--keep", tmp_path / "kept")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "kept" / "run-1" / "metrics.csv").read_bytes() == record.read_bytes()
