"""The evaluations as a library has them: tensors in, a report out, nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wasskit.errors import UserError
from wasskit.plugins.mrl.adaptive import classifier_outcomes
from wasskit.plugins.mrl.evaluation import classify_prefixes, neighbour_metrics
from wasskit.plugins.mrl.network import MrlModel, build_model
from wasskit.plugins.mrl.reports import cascade_report, evaluation_report, retrieval_report
from wasskit.plugins.mrl.trained import Split
from wasskit.report import Table

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model() -> MrlModel:
    torch.manual_seed(0)
    return build_model(
        {
            "backbone": "tiny", "stem": "auto", "dataset": "digits", "classes": list(CLASSES), "image_size": 8,
            "channels": 1, "mean": [0.5], "std": [0.5], "dims": [2, 4, 8], "tied": False, "embedding": "linear",
        }
    )  # fmt: skip


def split(name: str, n: int, classes: tuple[str, ...] = CLASSES) -> Split:
    generator = torch.Generator().manual_seed(n)
    embeddings = torch.nn.functional.normalize(torch.randn(n, 8, generator=generator))
    return Split("digits", name, classes, embeddings, torch.randint(0, 3, (n,), generator=generator))


def test_evaluation(
    model: MrlModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    test, train = split("test", 30), split("train", 12)
    report = evaluation_report(model, test, train, dims=(2, 5), k=50, trained_dims=True, name="mine")
    neighbours = neighbour_metrics(
        test.embeddings, test.labels, (2, 5), train=(train.embeddings, train.labels), k=12, temperature=0.07
    )
    expected = classify_prefixes(model, test.embeddings, test.labels) | neighbours
    assert report.result["metrics"] == {f"test/{key}": value for key, value in expected.items()}
    assert (report.result["model"], report.result["dims"]) == ("mine", [2, 4, 5, 8])
    assert report.remarks == ["There are 12 training images: k-NN takes them all."]
    assert list(report.files) == ["evaluation.json"]
    # One line for each of the six metrics.
    assert len(report.figures["evaluation"]().axes[0].containers) == 6
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_means_are_over_the_same_dimensions_whatever_is_measured_between(model: MrlModel) -> None:
    test, train = split("test", 30), split("train", 12)
    plain, more = (
        evaluation_report(model, test, train, dims=model.dims, k=5, interpolate=interpolate)
        for interpolate in (False, True)
    )
    assert more.result["dims"] == [2, 3, 4, 6, 8]
    assert "test/knn@6" in more.result["metrics"]
    assert plain.result["metrics"].items() <= more.result["metrics"].items()
    assert more.remarks == ["Means are over 2, 4, 8, without the dimensions between."]


def test_all_means_are_over_the_dimensions_asked_for(model: MrlModel) -> None:
    """Of the trained 2, 4 and 8 dimensions those of the classifiers that are asked for, and not of the others."""
    test, train = split("test", 30), split("train", 12)
    every = evaluation_report(model, test, train, dims=model.dims, k=5).result["metrics"]
    some = evaluation_report(model, test, train, dims=(2, 3, 8), k=5)
    found = some.result["metrics"]
    assert {key for key in found if "top1" in key} == {"test/top1", "test/top1@2", "test/top1@8"}
    for name in ("top1", "top5", "map10"):
        assert found[f"test/{name}@8"] == every[f"test/{name}@8"]
        assert found[f"test/{name}"] == pytest.approx((every[f"test/{name}@2"] + every[f"test/{name}@8"]) / 2)
    assert some.remarks == ["Of these dimensions 2, 8 have classifiers, and their means are over those."]
    none = evaluation_report(model, test, train, dims=(3,), k=5)
    assert not any("top1" in key for key in none.result["metrics"])
    assert none.remarks == ["The classifiers have 2, 4, 8 dimensions: none is asked for, so they are not measured."]
    with pytest.raises(UserError, match="leaves nothing to measure: no classifier has a dimension of --dims"):
        evaluation_report(model, test, None, dims=(3,), neighbours=False)


def test_vectors_are_not_called_images() -> None:
    test, train = (replace(split(name, n), things="vectors") for name, n in (("test", 30), ("train", 12)))
    report = evaluation_report(None, test, train, dims=(2, 5), k=50)
    (table,) = report.tables
    assert isinstance(table, Table)
    assert table.title == "digits/test, 30 vectors (percent)"
    assert report.remarks == ["There are 12 training vectors: k-NN takes them all."]


def test_other_classes(model: MrlModel) -> None:
    """The classifiers are left out; without neighbours nothing is left."""
    other = split("test", 20, ("x", "y", "z"))
    report = evaluation_report(model, other, None, dims=(4,))
    assert set(report.result["metrics"]) == {
        f"test/{name}{at}" for name in ("precision1", "retrieval_map10") for at in ("", "@4")
    }
    assert report.remarks == ["digits has other classes than the model's: its classifiers are not measured."]
    assert report.figures == {}
    with pytest.raises(UserError, match="leaves nothing to measure on a data set of other classes"):
        evaluation_report(model, other, None, dims=(4,), neighbours=False)


def test_retrieval_and_cascade(model: MrlModel) -> None:
    queries, gallery = split("test", 20), split("train", 40)
    found = retrieval_report(queries, gallery, model.dims, shortlist=10)
    outcomes = found.result["outcomes"]
    assert [o["name"] for o in outcomes] == ["single shot"] * 3 + ["adaptive"] * 2 + ["funnel"]
    assert [o["operations"] for o in outcomes[:4]] == [2 * 40, 4 * 40, 8 * 40, 2 * 40 + 8 * 10]
    (table,) = found.tables
    assert [row[-1] for row in table.rows if row[:2] == ["single shot", "8"]] == ["1.0"]  # type: ignore[attr-defined]

    logits = model.objective.classifiers(queries.embeddings)
    cascade = cascade_report(logits, queries, model.dims, [0.9])
    single = classifier_outcomes(logits, queries.labels, model.dims)
    assert [o["metrics"] for o in cascade.result["outcomes"][:3]] == [o.metrics for o in single]
    assert cascade.result["outcomes"][3]["text"] == "0.9"
    assert cascade.figures["cascade"]().axes[0].get_xscale() == "log"
