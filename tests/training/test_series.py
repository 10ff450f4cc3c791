"""Metrics of a run as series, by hand."""

from __future__ import annotations

from wasskit.training.metrics_csv import MetricRow
from wasskit.training.series import final_values, over_epochs, over_steps, steps_per_epoch

ROWS = [
    MetricRow(0, 5, "train", "loss", 3.0),
    MetricRow(1, 10, "train", "loss", 2.0),
    MetricRow(1, 10, "test", "top1", 50.0),
    MetricRow(2, 20, "test", "top1", float("nan")),
    MetricRow(0, 5, "train", "loss", 4.0),
    MetricRow(3, 30, "test", "top1", 60.0),
    MetricRow(3, 30, "test", "w2", float("inf")),
]


def test_over_steps() -> None:
    """In order of the steps; later rows replace earlier ones, what is not finite is left out."""
    found = over_steps(ROWS)
    assert found == {"train/loss": {5: 4.0, 10: 2.0}, "test/top1": {10: 50.0, 30: 60.0}, "test/w2": {}}
    assert list(found["train/loss"]) == [5, 10]
    assert over_steps([ROWS[2], MetricRow(1, 10, "test", "top1", float("nan"))]) == {"test/top1": {}}


def test_over_epochs() -> None:
    assert steps_per_epoch(ROWS) == 10
    assert over_epochs(ROWS)["train/loss"] == {0.5: 4.0, 1.0: 2.0}
    assert steps_per_epoch(ROWS[:2]) is None
    assert over_epochs(ROWS[:2])["train/loss"] == {5.0: 3.0, 10.0: 2.0}


def test_final_values() -> None:
    assert final_values(over_steps(ROWS)) == {"train/loss": 2.0, "test/top1": 60.0}
    measured = {"test/top1": 61.0, "test/w2": 0.5}  # the training's own come first
    assert final_values(over_steps(ROWS), measured) == {"train/loss": 2.0, "test/top1": 60.0, "test/w2": 0.5}
