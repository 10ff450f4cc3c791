"""``wasskit sweep`` as it is typed: trained, resumed, tabulated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasskit.evaluation.metrics import Metrics, share
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.recipes import load_recipe
from wasskit.sweeps.axes import Point
from wasskit.sweeps.results import Row, average, final_metrics, row_of, sweep_report

Cli = Callable[..., Any]
Words = Callable[[str], str]
FAST = ("--dataset", "fake", "--image-size", "8", "--epochs", "1", "--dims", "2,8", "--no-tensorboard")


def test_rows_are_means_over_seeds_by_hand(tmp_path: Path) -> None:
    """Two seeds of 50 and 60 with 1 undeclared; a metric that one seed lacks is none of the row."""
    points = [Point({"lr": 0.1, "seed": seed}, {f"s{seed}": MrlTrain()}) for seed in (0, 1)]
    for seed, final in enumerate([{"test/a": 50.0, "test/x": 1.0, "test/b": 9.0}, {"test/a": 60.0, "test/x": 1.0}]):
        (tmp_path / f"s{seed}").mkdir()
        (tmp_path / f"s{seed}" / "config.toml").write_text('command = "mrl train"\n')
        summary = {"final": final, "best": {"metric": "test/x"}}
        (tmp_path / f"s{seed}" / "summary.json").write_text(json.dumps(summary))
    assert list(final_metrics(tmp_path, points[0])) == ["test/x", "test/a", "test/b"], "the monitored one first"
    (row,) = average(points, lambda point: final_metrics(tmp_path, point))
    assert (row.name, row.seeds) == ("lr 0.1", 2)
    assert row.mean == {"test/x": 1.0, "test/a": 55.0}
    assert row.deviation == pytest.approx({"test/x": 0.0, "test/a": 50**0.5})
    report = sweep_report("mrl train", [row], Metrics([share("a", "A", "by hand")]))
    (table,) = report.tables
    assert table.columns == ("setting", "test A (%)")  # type: ignore[attr-defined]
    assert table.rows == [("lr 0.1", "55.00 ± 7.07")]  # type: ignore[attr-defined]
    assert table.title == "mrl train, mean and deviation of 2 seeds"  # type: ignore[attr-defined]
    assert list(report.figures) == ["sweep"]
    tidy: Any = report.files["table.csv"]
    assert [line[2:4] for line in tidy.rows] == [("test/x", 1.0), ("test/a", 55.0)]


def test_settings_are_compared_over_their_seeds() -> None:
    """Differences 1, 2, 3: mean 2, t = 2 sqrt(3), p = 1 - t / sqrt(t^2 + 2) of two degrees of freedom."""
    rows = [
        row_of(Row, {"lr": lr}, [{"test/a": value} for value in values])
        for lr, values in ((0.1, (5.0, 5.0, 5.0)), (0.2, (6.0, 7.0, 8.0)), (0.3, (6.0, 6.0, 6.0)))
    ]
    tidy: Any = sweep_report("mrl train", rows, Metrics([share("a", "A", "by hand")])).files["differences.csv"]
    first, same, last = tidy.rows
    assert first[:5] == ("lr 0.2", "lr 0.1", 3, "test/a", 2.0)
    assert first[5] == pytest.approx(1 - (12 / 14) ** 0.5)
    assert same == ("lr 0.3", "lr 0.1", 3, "test/a", 1.0, None), "by the same for every seed"
    assert last[:2] == ("lr 0.3", "lr 0.2")


@pytest.mark.slow
def test_a_sweep_trains_tabulates_and_goes_on(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    root = tmp_path / "grid"
    sweep = ("sweep", "mrl", "train", "alpha=1,2", "seed=0,1", "--run-dir", root)
    result = run_cli(*sweep, "--jobs", "2", "--", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "mrl train, mean and deviation of 2 seeds" in result.stdout
    assert "alpha 1" in result.stdout
    assert "±" in result.stdout
    summary = json.loads((root / "summary.json").read_text())
    assert summary["trainings"] == [f"alpha-{alpha}__seed-{seed}" for alpha in (1, 2) for seed in (0, 1)]
    assert [row["settings"] for row in summary["rows"]] == [{"alpha": 1.0}, {"alpha": 2.0}]
    assert (root / "figures" / "sweep.png").is_file()
    assert (root / "table.csv").read_text().startswith("setting,seeds,metric,mean,deviation\n")
    again = run_cli("sweep", "--recipe", root / "config.toml", "--run-dir", root)
    assert again.exit_code == 0, again.stderr
    assert "4 of 4 trainings are finished already" in again.stderr
    assert again.stdout == result.stdout
    assert load_recipe(str(root / "config.toml"), command="sweep").options["words"][:2] == ["mrl", "train"]
    other = run_cli(*sweep, "--", *FAST, "--lr", "0.2")
    assert other.exit_code == 2
    assert "lr (0.1 there, 0.2 now)" in words(other.stderr)
    partly = run_cli("sweep", "mrl", "train", "alpha=1,2", "--array", "0-2", "--table-only", "--run-dir", root)
    assert partly.exit_code == 2
    assert "--array is about a job" in words(partly.stderr)
    grown = ("sweep", "mrl", "train", "alpha=1,2", "seed=0,1,2", "--table-only", "--run-dir", root)
    partly = run_cli(*grown, "--", *FAST)
    assert partly.exit_code == 1
    assert "2 of 6 trainings are not finished" in words(partly.stderr)
    assert "mean and deviation of 2 seeds" in partly.stdout
    assert not (root / "summary.json").exists()
    foreign = run_cli("sweep", "ssl", "byol", "seed=0", "--run-dir", root / "alpha-1__seed-0")
    assert foreign.exit_code == 2
    assert "is of `wasskit mrl train`" in words(foreign.stderr)


def test_nothing_finished_is_no_table(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    result = run_cli("sweep", "mrl", "train", "seed=0,1", "--table-only", "--run-dir", tmp_path / "grid")
    assert result.exit_code == 2
    assert "is finished yet" in words(result.stderr)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("sweep",), "Say which command trains"),
        (("sweep", "ssl", "byol"), "Name at least one axis"),
        (
            ("sweep", "ssl", "byol", "w2=true,false", "--epochs", "3"),
            "No such option '--epochs' of `wasskit sweep`. `wasskit sweep --help` lists what it takes. Options of the "
            "trainings come last, after --.",
        ),
        (("sweep", "ssl", "byol", "seed=0", "--", "--lrr", "3"), "--lrr"),
    ],
)
def test_wrong_requests(run_cli: Cli, words: Words, argv: tuple[str, ...], sentence: str) -> None:
    result = run_cli(*argv)
    assert result.exit_code == 2
    assert sentence in words(result.stderr)
    assert "Traceback" not in result.stderr
