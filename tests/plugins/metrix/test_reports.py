from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wasskit import console
from wasskit.plugins.metrix.reports import epochs_to_report, runs_table
from wasskit.training.run import RunDirectory

TEST = {1: 50.0, 2: 70.0, 3: 60.0, 4: 70.0}
VALIDATION = {1: 90.0, 2: 40.0, 3: 80.0, 4: 90.0}


def recorded(path: Path, *, validation: bool) -> RunDirectory:
    """A run whose last epoch, best by validation and best on test are three different ones."""
    rows = ["epoch,step,split,metric,value"]
    for split, values in {"test": TEST, **({"val": VALIDATION} if validation else {})}.items():
        for epoch, value in values.items():
            rows += [f"{epoch},{10 * epoch},{split},recall@1,{value}"]
            rows += [f"{epoch},{10 * epoch},{split},recall@2,{value + 5}"]
    run = RunDirectory.create(path, command="metrix train", options={}, seed=0)
    (run.path / "metrics.csv").write_text("\n".join(rows) + "\n")
    return run


def test_three_epochs_are_reported_apart(tmp_path: Path) -> None:
    report = epochs_to_report(recorded(tmp_path / "r", validation=True).metrics())
    assert {name: entry["epoch"] for name, entry in report.items()} == {
        "last": 4,
        "best_by_validation": 1,
        "best_on_test": 2,
    }
    # What is reported is always of the test set, also where validation chose the epoch.
    assert {name: entry["metrics"] for name, entry in report.items()} == {
        name: {"recall@1": value, "recall@2": value + 5}
        for name, value in {"last": 70.0, "best_by_validation": 50.0, "best_on_test": 70.0}.items()
    }
    assert set(epochs_to_report(recorded(tmp_path / "s", validation=False).metrics())) == {
        "last",
        "best_on_test",
    }
    (tmp_path / "s" / "metrics.csv").unlink()
    assert epochs_to_report(RunDirectory.open(tmp_path / "s").metrics()) == {}


def test_the_table_says_which_epoch_is_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Callable[[str], str]
) -> None:
    report = epochs_to_report(recorded(tmp_path / "r", validation=True).metrics())
    console.stdout().print(runs_table("birds", {"Metrix": report}, {"metrics": {"test/recall@1": 67.4}}))
    text = words(capsys.readouterr().out)
    for line in (
        "run epoch recall@1 recall@2",
        "Metrix last epoch, 4 70.00 75.00",
        "Metrix best on validation classes, 1 50.00 55.00",
        "Metrix best on the test set (as published), 2 70.00 75.00",
        "published 67.40",
    ):
        assert line in text
