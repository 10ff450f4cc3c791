"""The commands as a user calls them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trust.server import Server
from wasskit.data.metric_sets import load_metric_splits
from wasskit.recipes import load_recipe, recipe_names
from wasskit.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("undrawn")

Run = Callable[..., Any]
QUICK = ("--batch-size", "60", "--max-triples", "300", "--embedding-size", "16", "--no-tensorboard")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a name of their own go to the test's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its baseline and a validation part."""
    from wasskit.cli import run

    path = tmp_path_factory.mktemp("runs") / "digits"
    code = run(["metrix", "train", *QUICK, "--epochs", "3", "--validation", "0.4", "--run-dir", str(path), "--quiet"])
    assert code == 0
    return path


def digits_folder(folder: Path) -> Path:
    test = load_metric_splits("digits").test
    for i in range(24):
        label = test.classes[int(test.filled_labels()[i])]
        (folder / label).mkdir(parents=True, exist_ok=True)
        test.image(i).save(folder / label / f"{i:02d}.png")
    return folder


def last_weights(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path / "checkpoints" / "last.pt", weights_only=True)["task"]
    return content


@pytest.mark.slow
def test_train_reports_metrix_and_its_baseline(trained: Path) -> None:
    run, baseline = RunDirectory.open(trained), RunDirectory.open(trained / "baseline")
    assert run.options["mode"] == "feature"
    assert baseline.options["mode"] == "baseline"
    summary = run.summary
    assert summary is not None
    assert set(summary["epochs_reported"]) == {"last", "best_by_validation", "best_on_test"}
    assert set(summary["baseline"]) == {"last", "best_by_validation", "best_on_test"}
    for report, directory in ((summary["epochs_reported"], run), (summary["baseline"], baseline)):
        tests = {row.epoch: row.value for row in directory.metrics("test", "recall@1")}
        vals = {row.epoch: row.value for row in directory.metrics("val", "recall@1")}
        assert sorted(tests) == sorted(vals) == [1, 2, 3]
        assert report["last"]["epoch"] == 3
        assert report["best_on_test"]["metrics"]["recall@1"] == max(tests.values())
        assert vals[report["best_by_validation"]["epoch"]] == max(vals.values())
        assert report["last"]["metrics"]["recall@1"] > 85
    assert (trained / "checkpoints" / "best.pt").is_file()
    for name in ("learning_curves.png", "recall.png"):
        with Image.open(trained / "figures" / name) as figure:
            assert figure.width > 600
    terms = {row.metric for row in run.metrics("train")}
    assert {"loss", "clean", "mixed", "triples", "skipped", "lr"} <= terms
    assert not {"mixed"} & {row.metric for row in baseline.metrics("train")}


@pytest.mark.slow
def test_train_labels_its_epochs(run_cli: Run, words: Callable[[str], str], tmp_path: Path) -> None:
    result = run_cli("metrix", "train", *QUICK, "--epochs", "1", "--mode", "embed", "--run-dir", tmp_path / "r")
    assert result.exit_code == 0
    text = words(result.stdout)
    assert "906 queries of 5 classes never trained on" in text
    for line in ("Metrix/embed last epoch, 1", "baseline last epoch, 1", "best on the test set (as published), 1"):
        assert line in text
    assert f"wasskit metrix evaluate {tmp_path / 'r'}" in text
    result = run_cli("metrix", "train", *QUICK, "--epochs", "1", "--run-dir", tmp_path / "r")
    assert result.exit_code == 2
    assert "already holds a run" in words(result.stderr)


@pytest.mark.slow
def test_json_is_the_summary(run_cli: Run, tmp_path: Path) -> None:
    result = run_cli(
        "metrix", "train", *QUICK, "--epochs", "1", "--mode", "baseline", "--loss", "proxyanchor",
        "--images-per-class", "20", "--json", "--run-dir", tmp_path / "r",
    )  # fmt: skip
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert content["epochs_reported"]["last"]["metrics"]["recall@1"] > 80
    assert "baseline" not in content
    assert content["skipped_steps"] == {}


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(trained, copy)
    whole = last_weights(trained)
    rows = (trained / "metrics.csv").read_text()
    # Back to the checkpoint before the last, then forward again.
    result = run_cli("metrix", "train", "--resume", copy / "checkpoints" / "previous.pt")
    assert result.exit_code == 0, result.stderr
    assert all(torch.equal(whole[key], value) for key, value in last_weights(copy).items())
    assert (copy / "metrics.csv").read_text() == rows
    result = run_cli("metrix", "train", "--resume", copy, "--loss", "proxyanchor")
    assert result.exit_code == 2
    assert "--loss proxyanchor (the run has contrastive)" in result.stderr


@pytest.mark.slow
def test_an_interrupted_baseline_is_resumed(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(trained, copy)
    folder = copy / "baseline"
    shutil.move(folder / "checkpoints" / "previous.pt", folder / "checkpoints" / "last.pt")
    (folder / "summary.json").unlink()
    result = run_cli("metrix", "train", "--resume", copy)
    assert result.exit_code == 0, result.stderr
    whole = last_weights(trained / "baseline")
    assert all(torch.equal(whole[key], value) for key, value in last_weights(folder).items())


@pytest.mark.slow
def test_evaluate_repeats_what_training_measured(run_cli: Run, trained: Path, words: Callable[[str], str]) -> None:
    result = run_cli("metrix", "evaluate", trained, "--mixtures", "500")
    assert result.exit_code == 0, result.stderr
    content = json.loads((trained / "evaluation.json").read_text())
    run = RunDirectory.open(trained)
    assert run.summary is not None
    for name, value in run.summary["final"].items():
        assert content["metrics"][name] == pytest.approx(value, abs=0.01)
    assert 0 < content["geometry"]["mixed_utilisation"] <= content["geometry"]["utilisation"]
    assert "utilisation" in words(result.stdout)
    for name in ("evaluation_recall.png", "similarities.png", "retrieved.png"):
        assert (trained / "figures" / name).is_file()
    result = run_cli(
        "metrix", "evaluate", trained, "--checkpoint", "best", "--recall", "3,30", "--no-geometry", "--pictures",
        "0", "--json", "--output", trained.parent / "elsewhere",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    best = json.loads(result.stdout)
    assert set(best["metrics"]) >= {"test/recall@1", "test/recall@3", "test/recall@30", "test/map@r"}
    assert run.summary["best"]["metrics"]["test/recall@1"] == pytest.approx(best["metrics"]["test/recall@1"])
    assert (trained.parent / "elsewhere" / "evaluation.json").is_file()


def test_exported_weights_are_the_run(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    result = run_cli("metrix", "export", trained, "--output", weights)
    assert result.exit_code == 0, result.stderr
    result = run_cli("metrix", "evaluate", weights, "--no-geometry", "--pictures", "0", "--json")
    assert result.exit_code == 0, result.stderr
    run = RunDirectory.open(trained)
    assert run.summary is not None
    metrics = json.loads(result.stdout)["metrics"]
    assert metrics["test/recall@1"] == pytest.approx(run.summary["final"]["test/recall@1"])
    # The header names the training classes, so the validation classes are known too.
    assert metrics["val/recall@1"] == pytest.approx(run.summary["final"]["val/recall@1"])
    result = run_cli("metrix", "export", weights, "--output", weights)
    assert result.exit_code == 2
    result = run_cli("metrix", "export", trained, "--output", tmp_path / "model.pt")
    assert result.exit_code == 2
    assert "must end in .safetensors" in result.stderr


def test_embed_a_folder(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "photos")
    result = run_cli("metrix", "embed", trained, folder, "--output", tmp_path / "e.npy", "--workers", "0")
    assert result.exit_code == 0, result.stderr
    embeddings = np.load(tmp_path / "e.npy")
    assert embeddings.shape == (24, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    with (tmp_path / "e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    # Read back from files, the images are those of the test set, pixel for pixel: so are their embeddings.
    from wasskit.data.loaders import EvalLoader
    from wasskit.evaluation.embedding import extract_features
    from wasskit.plugins.metrix.trained import KIND
    from wasskit.trained.data import fitted

    model = KIND.load(trained)
    test = fitted(load_metric_splits("digits").test.subset(range(24)), model.description)
    expected = extract_features(model.network, EvalLoader(test)).features
    for row, embedding in zip(rows, embeddings, strict=True):
        np.testing.assert_allclose(embedding, expected[int(Path(row["path"]).stem)], atol=1e-5)


@pytest.mark.slow
def test_search(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    result = run_cli("metrix", "search", trained, "5", "-k", "4", "--json", "--output", tmp_path)
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["gallery"] == 906
    assert len(content["found"]) == 4
    assert all(hit["image"] != "digits number 5" for hit in content["found"])
    similarities = [hit["similarity"] for hit in content["found"]]
    assert similarities == sorted(similarities, reverse=True)
    assert Path(content["picture"]).is_file()
    folder = digits_folder(tmp_path / "photos")
    query = next(folder.glob("*/03.png"))
    result = run_cli("metrix", "search", trained, query, "--gallery", folder, "--workers", "0", "--output", tmp_path)
    assert result.exit_code == 0, result.stderr
    first = next(line for line in result.stdout.splitlines() if line.split()[:1] == ["1"])
    assert "03.png" in first
    assert first.split()[1] == "1.000"


@pytest.mark.slow
def test_wrong_requests(run_cli: Run, trained: Path, tmp_path: Path, words: Callable[[str], str]) -> None:
    for argv, message in (
        (("train", "--dataset", "cub", "--data-root", tmp_path), "he data set cub is not in"),
        (("train", "--dataset", "cubs"), "Did you mean 'cub'?"),
        (("train", "--loss", "none-such"), "not one of contrastive, "),
        (("train", "--batch-size", "5000", "--run-dir", tmp_path / "a"), "fewer than one batch"),
        (("train", "--images-per-class", "10", "--run-dir", tmp_path / "b"), "needs 10 classes, but there are 5"),
        (("train", "--published", "--loss", "proxyanchor"), "contrastive loss only"),
        (("train", "--validation", "0.9", "--run-dir", tmp_path / "c"), "two of each are needed"),
        (("train", "--backbone", "resnet51", "--run-dir", tmp_path / "d"), "did you mean"),
        (("evaluate", tmp_path / "nothing"), "There is no run directory"),
        (("evaluate", trained, "--dataset", "fake"), "images of 3 channels"),
        (("search", trained, "99999"), "counted from 0"),
        (("search", trained, "no.jpg"), "There is no image no.jpg"),
        (("search", trained, digits_folder(tmp_path / "photos")), "photos holds 24 images: name one of them"),
        (("embed", trained, tmp_path / "nowhere"), "nowhere; name one that is there"),
        (("search", trained, "0", "--gallery", tmp_path / "nowhere"), "nowhere; name one that is there"),
        (("search", trained, __file__), "(not an image, or damaged at its start); name another file"),
        (("train", "--dataset", "imagefolder", "--data-root", tmp_path / "nowhere"), "name one by --data-root"),
    ):
        result = run_cli("metrix", *argv)
        assert result.exit_code == 2, (argv, result.stderr)
        assert message in words(result.stderr), (argv, result.stderr)
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_damaged_files_are_named(run_cli: Run, trained: Path, tmp_path: Path, words: Callable[[str], str]) -> None:
    folder = digits_folder(tmp_path / "photos")
    broken = next(folder.glob("*/07.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    result = run_cli("metrix", "embed", trained, folder, "--output", tmp_path / "e.npy")
    assert result.exit_code == 2
    assert "07.png" in result.stderr
    result = run_cli("metrix", "embed", trained, folder, "--output", tmp_path / "e.npy", "--corrupt", "skip")
    assert result.exit_code == 0
    assert len(np.load(tmp_path / "e.npy")) == 23
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "checkpoints" / "last.pt").write_bytes(b"damaged")
    result = run_cli("metrix", "evaluate", copy)
    assert result.exit_code == 2
    assert "last.pt" in result.stderr


def test_a_batch_without_positives_says_so(run_cli: Run, tmp_path: Path, words: Callable[[str], str]) -> None:
    for number in range(24):
        (tmp_path / "data" / f"c{number:02d}").mkdir(parents=True)
        Image.new("RGB", (16, 16), (10 * number, 90, 40)).save(tmp_path / "data" / f"c{number:02d}" / "1.png")
    result = run_cli(
        "metrix", "train", "--dataset", "imagefolder", "--data-root", tmp_path / "data", "--image-size", "16",
        "--in-memory", "--batch-size", "4", "--epochs", "1", "--pairs", "positive-negative", "--run-dir",
        tmp_path / "r", "--embedding-size", "8", "--accumulate", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "3 of 3 batches mixed nothing: no item of the batch has a positive" in words(result.stderr)
    summary = RunDirectory.open(tmp_path / "r").summary
    assert summary is not None
    assert summary["skipped_share"] == 1.0


PUBLISHED = {
    "cub-contrastive-feature": (67.4, 77.9, 85.7),
    "cars-multisimilarity-input": (89.0, 93.4, 96.0),
    "sop-proxyanchor-embed": (80.6, 91.7, 96.6),
    "inshop-multisimilarity-baseline": (90.1, 97.6, 98.4),
}


def test_there_is_a_recipe_for_every_published_row() -> None:
    rows = {
        f"metrix/{dataset}-{loss}-{mode}"
        for dataset in ("cub", "cars", "sop", "inshop")
        for loss in ("contrastive", "multisimilarity", "proxyanchor")
        for mode in ("baseline", "input", "feature", "embed")
    }
    assert rows <= set(recipe_names("metrix"))
    ks = {"cub": (1, 2, 4), "cars": (1, 2, 4), "sop": (1, 10, 100), "inshop": (1, 10, 20)}
    for name in rows:
        recipe = load_recipe(name, command="metrix train")
        dataset, loss, mode = name.partition("/")[2].split("-")
        options = recipe.options
        assert (options["dataset"], options["loss"], options["mode"]) == (dataset, loss, mode)
        assert list(recipe.paper["metrics"]) == [f"test/recall@{k}" for k in ks[dataset]]
        values = list(recipe.paper["metrics"].values())
        assert values == sorted(values)
        assert options["pretrained"] is True
        assert options["embedding_size"] == 512
        assert ("images_per_class" in options) == (dataset in ("sop", "inshop"))
    for short, expected in PUBLISHED.items():
        paper = load_recipe(f"metrix/{short}", command="metrix train").paper
        assert tuple(paper["metrics"].values()) == expected


@pytest.mark.slow
def test_real_birds(run_cli: Run, data_root: Path, tmp_path: Path, words: Callable[[str], str]) -> None:
    result = run_cli(
        "metrix", "train", "--dataset", "cub", "--data-root", data_root, "--image-size", "16", "--in-memory",
        "--backbone", "tiny", "--epochs", "1", "--batch-size", "40", "--images-per-class", "4", "--compare", "yes",
        "--max-triples", "400", "--run-dir", tmp_path / "birds",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "a subset, the whole set has" in words(result.stderr)
    assert "1,167 queries of 20 classes never trained on" in words(result.stdout)
    assert "baseline last epoch" in words(result.stdout)


_STOPPED = """
import signal, sys
from wasskit.cli import run
from wasskit.training.loop import Loop

plain = Loop._update

def update(self, batches):
    plain(self, batches)
    if self.state.epoch == 1:
        signal.raise_signal(signal.SIGTERM)

Loop._update = update
sys.exit(run(sys.argv[1:]))
"""
"""A command that is asked to stop within its second epoch, however fast it is."""


@pytest.mark.slow
def test_a_stopped_process_resumes_to_the_same_bits(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    options = (*QUICK, "--epochs", "3", "--validation", "0.4", "--run-dir", tmp_path / "r")
    command = [sys.executable, "-c", _STOPPED, "metrix", "train", *map(str, options)]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 143, stopped.stderr
    assert "--resume" in stopped.stderr
    step = torch.load(tmp_path / "r" / "checkpoints" / "last.pt", weights_only=True)["state"]["step"]
    assert 0 < step < RunDirectory.open(trained).summary["steps"]  # type: ignore[index]
    result = run_cli("metrix", "train", "--resume", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    for part in (".", "baseline"):
        whole, resumed = last_weights(trained / part), last_weights(tmp_path / "r" / part)
        assert all(torch.equal(whole[key], value) for key, value in resumed.items())


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one(server: Server, tmp_path: Path) -> None:
    runs = []
    for nproc in (1, 2):
        path = tmp_path / str(nproc)
        argv: list[str | Path] = [
            "metrix", "train", *QUICK, "--mode", "feature", "--loss", "multisimilarity", "--epochs", "1",
            "--log-every", "1", "--compare", "no", "--device", "cpu", "--nproc", str(nproc), "--run-dir", path,
        ]  # fmt: skip
        done = server.run(argv, tmp_path)
        assert done.code == 0, done.said
        runs.append(RunDirectory.open(path))
    one, two = (run.metrics("train", "loss") for run in runs)
    assert len(one) == len(two) > 5
    # The same batches and pairs; sums over ranks round differently, and training amplifies that.
    assert [row.value for row in two[:3]] == pytest.approx([row.value for row in one[:3]], rel=1e-3)
    triples = [[row.value for row in run.metrics("train", "triples")] for run in runs]
    assert triples[0] == triples[1]
    final = [run.metrics("test", "recall@1")[-1].value for run in runs]
    assert final[1] == pytest.approx(final[0], abs=2.0)
