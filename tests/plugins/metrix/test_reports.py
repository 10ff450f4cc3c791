from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from wasskit import console
from wasskit.data.base import ImageDataset
from wasskit.data.metric_sets import MetricSplits, load_metric_splits
from wasskit.evaluation.embedding import Features
from wasskit.plugins.metrix.figures import draw_similarities
from wasskit.plugins.metrix.measure import pixels_percent, raw_pixels, retrieval_percent
from wasskit.plugins.metrix.reports import (
    epochs_to_report,
    evaluation_report,
    runs_table,
    search_report,
    training_report,
)
from wasskit.report import Table
from wasskit.training.run import MetricRow, RunDirectory

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
    assert set(epochs_to_report(recorded(tmp_path / "s", validation=False).metrics())) == {"last", "best_on_test"}
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


@pytest.mark.parametrize(("recall", "said"), [(70.0, True), (73.0, True), (67.0, True), (74.0, False), (66.0, False)])
def test_a_difference_within_chance_is_said_to_be_one(tmp_path: Path, recall: float, said: bool) -> None:
    """Of 1,500 queries, two standard errors of 70 % against a share near it are 3.3 points."""
    rows = recorded(tmp_path / "r", validation=False).metrics()
    run = recorded(tmp_path / "s", validation=False)
    log = run.path / "metrics.csv"
    log.write_text(log.read_text().replace("4,40,test,recall@1,70.0", f"4,40,test,recall@1,{recall}"))
    queries = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(1500, 1, 1, 1, dtype=torch.uint8))
    parts = MetricSplits(queries, None, queries, None)
    report = training_report("fake", parts, {"Metrix": run.metrics(), "baseline": rows}, {}, {})
    assert [f"differ by {recall - 70:+.2f} points" in note for note in report.notes] == [True] * said
    assert not any("MAP@R" in note for note in report.notes)
    for each, value in ((log, 30.0), (tmp_path / "r" / "metrics.csv", 36.5)):
        each.write_text(each.read_text() + f"4,40,test,map@r,{value}\n")
    runs = {name: RunDirectory.open(tmp_path / folder).metrics() for name, folder in (("Metrix", "r"), ("b", "s"))}
    notes = training_report("fake", parts, runs, {}, {}).notes
    assert ["Their MAP@R differ by +6.50." in note for note in notes] == [True] * said


def test_recall_is_drawn_with_its_standard_errors(tmp_path: Path) -> None:
    """So that runs a tenth of a point apart do not look like two results: 70 % of 100 queries are +- 9.2 points."""
    rows = recorded(tmp_path / "r", validation=False).metrics()
    queries = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(100, 1, 1, 1, dtype=torch.uint8))
    near = [row._replace(value=row.value + 0.1) for row in rows]
    report = training_report("fake", MetricSplits(queries, None, queries, None), {"a": rows, "b": near}, {}, {})
    (ax,) = report.figures["recall"]().axes
    for lines, recalls in zip(ax.containers, ((70.0, 75.0), (70.1, 75.1)), strict=True):
        (bars,) = lines.lines[2]  # type: ignore[attr-defined]
        for bar, recall in zip(bars.get_segments(), recalls, strict=True):
            error = (recall * (100 - recall) / 100) ** 0.5
            assert bar[:, 1].tolist() == pytest.approx([recall - 2 * error, recall + 2 * error])
    low, high = ax.get_ylim()
    assert high - low > 4 * 21**0.5


@pytest.mark.parametrize(
    ("last", "said"), [(70.0, ["Metrix (70.00)", "baseline (70.00)"]), (80.0, ["baseline"]), (81.0, [])]
)
def test_raw_pixels_stand_beside_what_was_learned(tmp_path: Path, last: float, said: list[str]) -> None:
    rows = {}
    for name in ("Metrix", "baseline"):
        run = recorded(tmp_path / name, validation=False)
        value = last if name == "Metrix" or not said else 70.0
        log = run.path / "metrics.csv"
        log.write_text(log.read_text().replace("4,40,test,recall@1,70.0", f"4,40,test,recall@1,{value}"))
        rows[name] = run.metrics()
    queries = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(100, 1, 1, 1, dtype=torch.uint8))
    parts = MetricSplits(queries, None, queries, None)
    pixels = {"recall@1": 80.0, "recall@2": 85.0}
    report = training_report("fake", parts, rows, {}, {}, pixels)
    assert report.result["raw_pixels"] == pixels
    (table,) = report.tables
    assert isinstance(table, Table)
    assert table.rows[-1] == ["raw pixels", "", 80.0, 85.0]
    notes = [note for note in report.notes if "Raw pixels" in note]
    assert len(notes) == bool(said)
    assert all(name in note for note in notes for name in said)
    assert "raw_pixels" not in training_report("fake", parts, rows, {}, {}).result


def test_raw_pixels_are_measured_as_embeddings_are() -> None:
    """Only small images in memory; with a gallery, in it."""
    whole = load_metric_splits("digits")
    queries, gallery = whole.test.subset(range(40)), whole.test.subset(range(40, 120))
    cpu = torch.device("cpu")
    images = [(part.images.float() / 255) for part in (queries, gallery) if part.images is not None]
    found = pixels_percent(MetricSplits(whole.train, None, queries, gallery), (1, 4), cpu)
    assert found is not None
    assert set(found) == {"recall@1", "recall@4", "precision@1", "map@r"}
    asking, searched = raw_pixels(queries, cpu), raw_pixels(gallery, cpu)
    assert asking is not None
    assert searched is not None
    assert [x.features.shape for x in (asking, searched)] == [(len(y), 64) for y in images]
    assert found == retrieval_percent(asking, searched, (1, 4))
    large = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(4, 1, 65, 65, dtype=torch.uint8))
    assert pixels_percent(MetricSplits(large, None, large, None), (1,), cpu) is None
    assert pixels_percent(MetricSplits(large, None, queries, large), (1,), cpu) is None


def embedded(dataset: ImageDataset, seed: int) -> Features:
    x = torch.randn(len(dataset), 8, generator=torch.Generator().manual_seed(seed))
    return Features(F.normalize(x), dataset.filled_labels(), torch.arange(len(dataset)))


def test_an_evaluation_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_metric_splits("digits")
    queries, gallery = whole.test.subset(range(40)), whole.test.subset(range(40, 120))
    parts = MetricSplits(whole.train.subset(range(60)), None, queries, gallery)
    features = {"test": embedded(queries, 0), "gallery": embedded(gallery, 1), "train": embedded(parts.train, 2)}
    report = evaluation_report(parts, features, (1, 4), mixtures=50, pictures=2, name="some model")
    expected = retrieval_percent(features["test"], features["gallery"], (1, 4))
    assert report.result["metrics"] == {f"test/{name}": value for name, value in expected.items()}
    assert report.result["geometry"]["mixed"] <= 50
    assert (report.result["model"], report.result["queries"], report.result["gallery"]) == ("some model", 40, 80)
    assert list(report.figures) == ["evaluation_recall", "similarities", "retrieved"]
    assert report.files == {"evaluation.json": report.result}
    del features["train"]
    small = evaluation_report(parts, features, (1,), pictures=0)
    assert "geometry" not in small.result
    assert list(small.figures) == ["similarities"]
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_query_does_not_find_itself() -> None:
    dataset = load_metric_splits("digits").test.subset(range(30))
    x = embedded(dataset, 3).features
    query = (dataset.subset([7]), x[7:8])
    best = (x @ x[7]).argsort(descending=True).tolist()
    for own, expected in ((7, best[1:6]), (None, best[:5])):
        found = search_report("number 7", query, (dataset, x), 5, own=own).result["found"]
        assert [hit["image"] for hit in found] == [f"digits number {i}" for i in expected]
        assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rest", [[], [0.2, 0.6]])
def test_equal_items_are_in_the_histogram_of_similarities(rest: list[float]) -> None:
    """Their cosine in float32 is one step above 1."""
    above = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    figure = draw_similarities(torch.tensor([above, above, *rest]), torch.tensor([above, *rest]))
    (ax,) = figure.axes
    counts = [patch.get_xy()[:, 1].max() for patch in ax.patches]  # type: ignore[attr-defined]
    assert counts == [2, 1]


def test_the_share_of_skipped_steps_counts_every_step_once(tmp_path: Path) -> None:
    """Logs at steps 20 and 21: the mean of twenty steps and the value of one."""
    run = recorded(tmp_path / "r", validation=False)
    rows = [*run.metrics(), MetricRow(1, 20, "train", "skipped", 0.1), MetricRow(1, 21, "train", "skipped", 1.0)]
    queries = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(9, 1, 1, 1, dtype=torch.uint8))
    report = training_report("fake", MetricSplits(queries, None, queries, None), {"Metrix": rows}, {}, {})
    assert report.result["skipped_share"] == pytest.approx(3 / 21)
