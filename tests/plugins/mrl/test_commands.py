"""``wasskit mrl`` as it is typed: every command on real digits, and every wrong request."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trust.server import Command, Server
from wasskit.config import changed
from wasskit.training.checkpoint import load_checkpoint
from wasskit.training.run import RunDirectory

Cli = Callable[..., Any]
Words = Callable[[str], str]
FAST = ("--epochs", "2", "--dims", "2,8", "--batch-size", "64", "--no-tensorboard")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on digits."""
    from wasskit.cli import run

    path = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["mrl", "train", *FAST, "--run-dir", str(path), "--quiet"]) == 0
    return path


def json_of(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


# --- Training
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_leaves_everything_in_its_run_directory(
    run_cli: Cli, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("mrl", "train", *FAST, "--tied", "--name", "mine")
    assert result.exit_code == 0, result.stderr
    run = RunDirectory.open(tmp_path / "runs" / "mrl" / "mine", plugin="mrl")
    text = words(result.stdout)
    for word in ("dimension", "top-1", "mAP@10", "mean", "Next:", "wasskit mrl retrieve"):
        assert word in text
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    for figure in ("dimensions.png", "learning_curves.png"):
        with Image.open(run.figures / figure) as image:
            assert image.size[0] > 400
    assert run.summary is not None
    assert {"test/top1", "test/top1@2", "test/top5@8", "test/map10@8"} <= set(run.summary["final"])
    assert run.metrics("train", "wasserstein")
    assert run.metrics("train", "ce@8")


@pytest.mark.slow
def test_the_default_run_learns_digits(run_cli: Cli, tmp_path: Path) -> None:
    """Above 97 % at the largest dimension, with no option but the directory."""
    summary = json_of(run_cli("mrl", "train", "--run-dir", tmp_path / "r", "--json", "--quiet"))
    assert summary["final"]["test/top1@256"] > 97
    assert summary["final"]["test/top1@8"] > 95


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--wasserstein-weight", "0"),
        ("--alpha", "0"),
        ("--sinkhorn", "geomloss", "--beta", "10"),
        ("--ce-weights", "1,0.5", "--precision", "bf16"),
        ("--optimizer", "adamw", "--lr", "0.001", "--warmup-epochs", "1", "--accumulate", "2"),
    ],
    ids=lambda options: options[0],
)
def test_variants_train(run_cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    arguments = ("--dataset", "fake", "--image-size", "8", "--epochs", "1", "--dims", "2,8", *options)
    summary = json_of(run_cli("mrl", "train", *arguments, "--run-dir", tmp_path / "r", "--json", "-q"))
    assert 0 <= summary["final"]["test/top1@8"] <= 100


@pytest.mark.slow
def test_training_on_ones_own_folder_and_embedding_it(run_cli: Cli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("dark", "light"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = generator.integers(0, 100, (20, 24 + i, 3)) + (120 if name == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    data = ("--dataset", "imagefolder", "--data-root", tmp_path / "photos", "--workers", "0")
    arguments = (*data, "--image-size", "16", "--backbone", "tiny", "--epochs", "2", "--dims", "2,8", "-b", "6")
    json_of(run_cli("mrl", "train", *arguments, "--run-dir", tmp_path / "r", "--json", "-q"))
    evaluated = json_of(run_cli("mrl", "evaluate", tmp_path / "r", *data[2:], "--json", "-q"))
    assert evaluated["images"] == 12
    output = tmp_path / "out" / "e.npy"
    found = json_of(
        run_cli(
            "mrl", "embed", tmp_path / "r", tmp_path / "photos" / "test", "--dim", "2", "--unit",
            "--output", output, "--workers", "0", "--json",
        )
    )  # fmt: skip
    embeddings = np.load(output)
    assert embeddings.shape == (12, 2) == (found["images"], found["dim"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    table = output.with_suffix(".csv").read_text().splitlines()
    assert len(table) == 13
    assert table[1].endswith(",dark")


@pytest.mark.slow
def test_real_photographs(run_cli: Cli, data_root: Path, tmp_path: Path) -> None:
    """One epoch on the CIFAR-10 there is, shrunk to 8 pixels: better than chance."""
    summary = json_of(
        run_cli(
            "mrl", "train", "--dataset", "cifar10", "--data-root", data_root, "--image-size", "8",
            "--epochs", "1", "--dims", "8,64", "--lr", "0.05", "--run-dir", tmp_path / "r", "--json", "-q",
        )
    )  # fmt: skip
    assert summary["final"]["test/top1@64"] > 15


# --- Trained models
# ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate(run_cli: Cli, words: Words, trained: Path) -> None:
    result = run_cli("mrl", "evaluate", trained, "--interpolate")
    assert result.exit_code == 0, result.stderr
    for word in ("k-NN", "precision@1", "retrieval mAP@10"):
        assert word in words(result.stdout)
    saved = json.loads((trained / "evaluation.json").read_text())
    assert saved["dims"] == [2, 4, 8]
    assert (trained / "figures" / "evaluation.png").is_file()
    metrics = saved["metrics"]
    summary = RunDirectory.open(trained).summary
    assert summary is not None
    for name, value in summary["final"].items():
        assert metrics[name] == pytest.approx(value), name
    assert "test/top1@4" not in metrics
    assert metrics["test/knn@8"] > 50
    assert metrics["test/precision1@4"] > metrics["test/precision1@2"]


@pytest.mark.slow
def test_images_without_labels_are_retrieved_and_not_evaluated(
    run_cli: Cli, words: Words, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasskit.trained.data import open_split

    unlabelled = "wasskit.plugins.mrl.trained.open_split"
    monkeypatch.setattr(unlabelled, lambda *args: replace(open_split(*args), labels=None))
    found = json_of(run_cli("mrl", "retrieve", trained, "--output", tmp_path, "--json"))
    assert {name for one in found["outcomes"] for name in one["metrics"]} == {"overlap10"}
    refused = run_cli("mrl", "evaluate", trained, "--output", tmp_path)
    assert refused.exit_code == 2
    assert "digits/test has images without a label: choose a labelled split." in words(refused.stderr)


@pytest.mark.slow
def test_retrieve_and_classify(run_cli: Cli, trained: Path, tmp_path: Path) -> None:
    found = json_of(run_cli("mrl", "retrieve", trained, "--shortlist", "50", "--output", tmp_path, "--json"))
    names = [outcome["name"] for outcome in found["outcomes"]]
    assert names == ["single shot", "single shot", "adaptive"]
    assert found["outcomes"][2]["operations"] == 2 * 1259 + 8 * 50
    assert (tmp_path / "retrieval.json").is_file()
    assert (tmp_path / "figures" / "retrieval.png").is_file()
    found = json_of(run_cli("mrl", "classify", trained, "--thresholds", "0.5", "--json"))
    assert [outcome["text"] for outcome in found["outcomes"]] == ["2", "8", "0.5"]
    assert 2 <= found["outcomes"][2]["metrics"]["mean_dim"] <= 8


@pytest.mark.slow
def test_export_serves_instead_of_the_run(run_cli: Cli, trained: Path, tmp_path: Path) -> None:
    """Exported weights evaluate to the same numbers, wherever they are taken."""
    target = tmp_path / "taken away" / "model.safetensors"
    json_of(run_cli("mrl", "export", trained, "--output", target, "--json"))
    from_run = json_of(run_cli("mrl", "evaluate", trained, "--no-neighbours", "--json"))
    from_file = json_of(run_cli("mrl", "evaluate", target, "--no-neighbours", "--json"))
    assert from_file["metrics"] == from_run["metrics"]
    again = run_cli("mrl", "export", target)
    assert again.exit_code == 2
    assert "--output" in again.stderr
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "change", [{"command": "ssl train"}, {"extra": {}}, {"extra": {"model": {}}}, {"extra": 3}, {"task": "x"}]
)
def test_foreign_checkpoints_are_refused_in_a_sentence(
    run_cli: Cli, trained: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(trained, tmp_path / "r")
    path = tmp_path / "r" / "checkpoints" / "last.pt"
    content = load_checkpoint(path)
    path.unlink()
    torch.save({**content, **change}, path)
    result = run_cli("mrl", "evaluate", tmp_path / "r", "--no-neighbours")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_what_comes_next_can_be_pasted(run_cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a [b] c"
    result = run_cli("mrl", "train", *FAST, "--run-dir", path, "--data-root", tmp_path, "--epochs", "1")
    assert f"wasskit mrl evaluate '{path}'\n" in result.stdout
    assert "after 1 epoch (percent)" in result.stdout


@pytest.mark.slow
def test_export_to_onnx_agrees_with_torch(run_cli: Cli, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = json_of(
        run_cli("mrl", "export", trained, "--output", tmp_path / "m.safetensors", "--onnx", "--dim", "2", "--json")
    )
    assert found["onnx_error"] < 1e-5


@pytest.mark.slow
def test_a_moved_run_is_still_a_run(run_cli: Cli, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    assert run_cli("mrl", "evaluate", moved, "--no-neighbours").exit_code == 0
    assert run_cli("mrl", "classify", moved / "checkpoints" / "best.pt").exit_code == 0


# --- Grids
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_trains_tabulates_and_goes_on(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    from wasskit.recipes import load_recipe

    small = ("--dataset", "fake", "--image-size", "8", "--epochs", "1", "--dims", "2,8", "--run-dir", tmp_path)
    recipe = tmp_path.with_name("recipe.toml")
    recipe.write_text('command = "mrl sweep"\n[paper]\nsource = "A paper"\n[paper.metrics]\n"test/top1" = 12.34\n')
    result = run_cli("mrl", "sweep", "seed=0,1", *small, "--jobs", "2", "--recipe", recipe)
    assert result.exit_code == 0, result.stderr
    assert "±" in result.stdout
    assert "12.34" in result.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["trainings"] == ["seed-0", "seed-1"]
    assert (tmp_path / "figures" / "dimensions.png").is_file()
    again = run_cli("mrl", "sweep", "seed=0,1", *small)
    assert "2 of 2 trainings are finished already" in again.stderr
    assert again.stdout == result.stdout, "the folder keeps the published figures"
    repeated = run_cli("mrl", "sweep", "--recipe", tmp_path / "config.toml", "--run-dir", tmp_path)
    assert repeated.stdout == result.stdout, "and the whole grid"
    other = run_cli("mrl", "sweep", "seed=0,1", *small, "--lr", "0.2")
    assert other.exit_code == 2
    assert "lr (0.1 there, 0.2 now)" in words(other.stderr)
    assert run_cli("mrl", "sweep", "seed=1", *small).exit_code == 0
    changed = load_recipe(str(tmp_path / "config.toml"), command="mrl sweep")
    assert (changed.options["grid"], changed.options["lr"]) == (["seed=1"], 0.1), "what the table shows"
    assert changed.document["paper"]["source"] == "A paper"
    refused = run_cli("mrl", "evaluate", tmp_path)
    assert refused.exit_code == 2
    assert "name one of the runs in it" in words(refused.stderr)
    foreign = run_cli("mrl", "baseline", *small)
    assert foreign.exit_code == 2
    assert "is of `wasskit mrl sweep`" in words(foreign.stderr)


def test_results_are_collected_over_seeds_and_independent_dimensions(tmp_path: Path) -> None:
    """By hand: two seeds; the independent networks' dimensions are joined and averaged before the seeds are."""
    from wasskit.plugins.mrl import results
    from wasskit.plugins.mrl.grid import plan_points
    from wasskit.plugins.mrl.options import TrainingOptions
    from wasskit.plugins.mrl.results import collect, differences, rows_table

    axes: dict[str, list[Any]] = {"method": ["mwrl", "independent"], "seed": [0, 1]}
    points = plan_points(changed(TrainingOptions(), dims=(2, 8)), axes, lambda config: 256)
    accuracies = {"mwrl": [(50.0, 80.0), (60.0, 90.0)], "independent": [(30.0, 70.0), (40.0, 90.0)]}
    for point in points:
        pair = accuracies[point.settings["method"]][point.settings["seed"]]
        for name, config in point.trainings.items():
            final = {f"test/top1@{d}": dict(zip((2, 8), pair, strict=True))[d] for d in config.method.dims or ()}
            final["test/top1@4"] = 0.0  # measured between the trained dimensions, of whose mean it is no part
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "config.toml").write_text('command = "mrl train"\n')
            (tmp_path / name / "summary.json").write_text(json.dumps({"final": {"test/top1": 0.0, **final}}))
    mwrl, independent = collect(tmp_path, points)
    assert (mwrl.name, mwrl.seeds, mwrl.dims()) == ("mwrl", 2, [2, 4, 8])
    assert mwrl.mean == pytest.approx({"top1@2": 55, "top1@4": 0, "top1@8": 85, "top1": 70})
    assert independent.mean == pytest.approx({"top1@2": 35, "top1@4": 0, "top1@8": 80, "top1": 57.5})
    deviation = {"top1@2": 50**0.5, "top1@4": 0, "top1@8": 200**0.5, "top1": 112.5**0.5}
    assert independent.deviation == pytest.approx(deviation)
    lines = rows_table([mwrl, independent]).rows
    assert lines[0][:5] == ("mwrl", 2, "top1", "2", pytest.approx(55.0))
    assert len(lines) == 2 * 4
    # Differences of -20, -20; of -10, 0: t = -1 with one degree of freedom, whose p is 1/2; of -15, -10: t = -5.
    found = list(differences([mwrl, independent]))
    assert [one.mean for one in found if one.dim != 4] == pytest.approx([-20, -5, -12.5])
    assert [one.p for one in found if one.dim in (2, 4)] == [None, None]
    assert [one.p for one in found if one.dim in (8, 0)] == pytest.approx([0.5, 1 - 2 / math.pi * math.atan(5)])
    # A grid of seeds alone has one setting without a name.
    table = results._differences_table(replace(mwrl, settings={}), found, "top-1", (2, 8))
    assert table.title == "top-1, difference to all (p of the paired t-test over 2 seeds)"
    assert table.rows == [["independent", "-20.00 (-)", "-5.00 (0.500)", "-12.50 (0.126)"]]


@pytest.mark.slow
def test_a_second_sweep_on_a_folder_is_refused(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    """It loses nothing: the summary that is there stays. The first, gone on with and failed, leaves none."""
    pytest.importorskip("fcntl")
    options = ("--dataset", "imagefolder", "--data-root", tmp_path / "nowhere", "--backbone", "tiny")
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "config.toml").write_text('command = "mrl sweep"\n')
    (folder / "summary.json").write_text("{}")
    holding = (
        "import sys; from wasskit.training.run import RunDirectory\n"
        "with RunDirectory.open(sys.argv[1]).claimed(alone=False): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refused = run_cli("mrl", "sweep", "seed=3", *options, "--run-dir", folder)
        other.communicate("\n")
    assert refused.exit_code == 2
    assert f"Another process (process {other.pid} on" in words(refused.stderr)
    assert (folder / "summary.json").is_file()
    assert run_cli("mrl", "sweep", "seed=3", *options, "--run-dir", folder).exit_code == 2
    assert not (folder / "summary.json").exists()


@pytest.mark.slow
def test_a_failed_training_is_named(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    options = ("--dataset", "imagefolder", "--data-root", tmp_path / "nowhere", "--backbone", "tiny")
    result = run_cli("mrl", "sweep", "seed=3", *options, "--run-dir", tmp_path / "sweep")
    assert result.exit_code == 2
    assert "1 of 1 trainings failed, first seed-3" in words(result.stderr)
    assert "nowhere" in (tmp_path / "sweep" / "failed.json").read_text()
    assert "nowhere" in words(result.stderr)


def test_grids_are_parsed() -> None:
    from wasskit.plugins.mrl.grid import parse_axes, plan_points
    from wasskit.plugins.mrl.options import TrainingOptions
    from wasskit.plugins.mrl.task import backbone_width

    axes = parse_axes(["wasserstein-weight=0.1", "1", "dims=2:8,8:32", "tied=true"])
    assert axes == {"wasserstein_weight": [0.1, 1.0], "dims": [(2, 8), (8, 32)], "tied": [True]}
    points = plan_points(TrainingOptions(), axes, backbone_width)
    assert [p.settings["wasserstein_weight"] for p in points] == [0.1, 0.1, 1.0, 1.0]
    (name, config), *_ = points[1].trainings.items()
    assert name == "wasserstein_weight-0.1__dims-8:32__tied-true"
    assert (config.method.dims, config.method.tied, config.method.wasserstein_weight) == ((8, 32), True, 0.1)
    alone = plan_points(changed(TrainingOptions(), dims=(8, 256)), {"method": ["independent"]}, backbone_width)[0]
    methods = [training.method for training in alone.trainings.values()]
    assert [(c.dims, c.embedding, c.wasserstein_weight) for c in methods] == [
        ((8,), "linear", 0.0),
        ((256,), "identity", 0.0),
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        "ablation-lambda", "ablation-beta", "ablation-epsilon", "ablation-batch", "ablation-initialisation",
        "imagenet100-comparison",
    ],
)  # fmt: skip
def test_published_figures_of_a_grid_stand_beside_its_rows(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row of the recipe's grid has its published figures, and no table is of a row that the grid lacks."""
    from wasskit.plugins.mrl.grid import parse_axes, plan_points
    from wasskit.plugins.mrl.options import TrainingOptions
    from wasskit.plugins.mrl.results import Row, grid_report, published_rows
    from wasskit.recipes import load_recipe
    from wasskit.report import show

    monkeypatch.setenv("COLUMNS", "200")
    document = load_recipe(f"mrl/{recipe}", command="mrl sweep").document
    metrics = document["paper"]["metrics"]
    points = plan_points(
        changed(TrainingOptions(), dims=(8, 16)), parse_axes(document["options"]["grid"]), lambda c: 2048
    )
    found = {"top1": 50.0, "top1@8": 50.0}
    rows = [Row(point.settings, 1, found, dict.fromkeys(found, 0.0)) for point in points]
    published = published_rows(rows, metrics)
    assert list(published) == [row.name for row in rows] == list(metrics)
    show(grid_report("imagenet100", "mrl sweep", rows, document["paper"]))
    said = capsys.readouterr().out
    assert "published top-1" in said
    assert "80.29" in said
    assert published_rows(rows[:1], {"test/top1": 1.0}) == {rows[0].name: {"test/top1": 1.0}}
    assert published_rows(rows, {"test/top1": 1.0}) == {}


def test_each_backbone_of_a_grid_has_its_own_dimensions() -> None:
    from wasskit.plugins.mrl.grid import plan_points
    from wasskit.plugins.mrl.options import TrainingOptions
    from wasskit.plugins.mrl.task import backbone_width

    axes: dict[str, list[Any]] = {"backbone": ["tiny", "resnet18"], "method": ["mwrl", "independent"]}
    points = plan_points(TrainingOptions(), axes, backbone_width)
    largest = [max(d for c in point.trainings.values() for d in c.method.dims or ()) for point in points]
    assert largest == [256, 256, 512, 512]
    assert [len(point.trainings) for point in points] == [1, 8, 1, 9]
    whole = [c.method.dims for p in points for c in p.trainings.values() if c.method.embedding == "identity"]
    assert whole == [(256,), (512,)]
    chosen = plan_points(changed(TrainingOptions(), dims=(4, 8)), axes, backbone_width)
    assert {c.method.dims for p in chosen for c in p.trainings.values()} == {(4, 8), (4,), (8,)}


# --- Wrong requests: one sentence, exit code 2, nothing lost
# ----------------------------------------------------------


def test_images_of_one_class_are_refused_and_not_told_apart_at_100_percent(
    run_cli: Cli, words: Words, tmp_path: Path
) -> None:
    folder = tmp_path / "photos" / "faces"
    folder.mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (16, 16), (25 * number, 0, 0)).save(folder / f"{number}.png")
    options = (
        "--data-root",
        tmp_path / "photos",
        "--image-size",
        "16",
        "--batch-size",
        "4",
        "--run-dir",
        tmp_path / "r",
    )
    result = run_cli("mrl", "train", "--epochs", "1", "--dataset", "imagefolder", *options)
    assert result.exit_code == 2, result.stderr
    assert "are of one class, faces: there is nothing to tell apart" in words(result.stderr)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--dims", "8,4"), "--dims: dimensions must increase, but 4 follows 8"),
        (("--dims", "4,4,8"), "--dims: dimensions must differ, but 4 is repeated"),
        (("--dims", "0,4"), "0 is out of range"),
        (("--dims", ""), "at least one dimension"),
        (("--dims", "8,five"), "expected a list of whole numbers"),
        (("--dims", "8,512"), "512 is larger than the embedding, which has the backbone's 256 coordinates"),
        (("--dims", "8,16", "--ce-weights", "1"), "--ce-weights: 1 weights for 2 dimensions"),
        (("--ce-weights", "1,2"), "2 weights for 8 dimensions"),
        (("--batch-size", "1"), "--batch-size: 1"),
        (("--batch-size", "5000"), "smaller batch"),
        (("--blur", "0"), "--blur"),
        (("--alpha", "0", "--wasserstein-weight", "0"), "nothing to learn"),
        (("--dataset", "imagefolder", "--data-root", "no/such/folder"), "no/such/folder"),
        (("--dataset", "cifar10", "--data-root", "no/such/folder"), "cifar-10-batches-py"),
        (("--backbone", "resnet51"), "resnet5"),
        (("--weights", "no.pt"), "no.pt"),
        (("--pretrained",), "tiny"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_trainings(run_cli: Cli, words: Words, tmp_path: Path, options: tuple[str, ...], fragment: str) -> None:
    result = run_cli("mrl", "train", "--epochs", "1", "--run-dir", tmp_path / "r", *options)
    assert result.exit_code == 2, result.stderr
    assert fragment in words(result.stderr)
    assert "Traceback" not in result.stderr


def test_a_misspelt_recipe_key(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('command = "mrl train"\n[options]\nwasserstein_wieght = 1.0\n')
    result = run_cli("mrl", "train", "--recipe", recipe)
    assert result.exit_code == 2
    assert "Unknown key 'wasserstein_wieght'" in words(result.stderr)
    assert "Did you mean 'wasserstein_weight'?" in words(result.stderr)


@pytest.mark.slow
def test_an_unreadable_image(run_cli: Cli, words: Words, tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (20, 20), (10 * i, 0, 0)).save(folder / f"{i}.png")
    bad = tmp_path / "photos" / "b" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    options = (
        "--dataset", "imagefolder", "--data-root", tmp_path / "photos", "--image-size", "16", "--epochs", "1",
        "--dims", "2,4", "-b", "4", "--workers", "0", "--backbone", "tiny",
    )  # fmt: skip
    result = run_cli("mrl", "train", *options, "--run-dir", tmp_path / "r")
    assert result.exit_code == 2
    assert "3.png" in words(result.stderr)
    skipped = run_cli("mrl", "train", *options, "--corrupt", "skip", "--run-dir", tmp_path / "r2")
    assert skipped.exit_code == 0, skipped.stderr


@pytest.mark.slow
def test_a_full_disk_loses_nothing(run_cli: Cli, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint finds no room: exit code 2, and the run goes on from the first."""
    path, save, calls = tmp_path / "r", torch.save, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        result = run_cli("mrl", "train", *FAST, "--run-dir", path)
    assert result.exit_code == 2
    assert "No space left" in words(result.stderr)
    assert load_checkpoint(path / "checkpoints" / "last.pt")["state"]["epoch"] == 1
    assert run_cli("mrl", "train", "--run-dir", path, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("words_typed", "fragment"),
    [
        (("evaluate", "nowhere"), "There is no run directory nowhere"),
        (("evaluate", "nowhere.safetensors"), "no file of weights at nowhere.safetensors"),
        (("evaluate", "RUN", "--dims", "2,64"), "64 is larger than the embedding, which has 8"),
        (("evaluate", "RUN", "--dims", "8,2"), "must increase"),
        (("evaluate", "RUN", "--split", "tset"), "has no split 'tset'"),
        (("evaluate", "RUN", "--dataset", "cifar10"), "cifar"),
        (("evaluate", "RUN", "--dataset", "fake"), "images of 3 channels"),
        (("retrieve", "RUN", "--gallery", "test"), "search another split"),
        (("classify", "RUN", "--thresholds", "1.5"), "out of range"),
        (("embed", "RUN", "no/images"), "no/images"),
        (("embed", "RUN", "no/images", "--dim", "9"), "--dim: 9 is larger than the embedding"),
        (("embed", "RUN", "no/images", "--output", "."), "is a folder; name a .npy file"),
        (("export", "RUN", "--output", "model.bin"), "must end in .safetensors"),
        (("export", "RUN", "--output", "."), "is a folder"),
        (("evaluate", "RUN", "--device", "meta"), "'meta' is not supported"),
        (("train", "--alpha", "0", "--dims", "8"), "--alpha 0 leaves nothing to learn of one dimension"),
        (("sweep", "method=matryoshka", "wasserstein_weight=0,1"), "method: matryoshka has wasserstein_weight 0"),
        (("sweep",), "at least one axis"),
        (("sweep", "bata=1,2"), "Did you mean 'beta'?"),
        (("sweep", "beta=-1"), "out of range"),
        (("sweep", "beta=1,1"), "twice"),
        (("sweep", "beta"), "not an axis of a grid"),
        (("sweep", "method=mrl"), "is not one of mwrl, matryoshka"),
        (("sweep", "beta=1", "--nproc", "2"), "--nproc-per-run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_requests(
    run_cli: Cli,
    words: Words,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words_typed: tuple[str, ...],
    fragment: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WASSKIT_DATA", raising=False)
    result = run_cli("mrl", *(str(trained) if word == "RUN" else word for word in words_typed))
    assert result.exit_code == 2, result.stderr
    assert fragment in words(result.stderr)
    assert "Traceback" not in result.stderr


def test_checkpoints_that_do_not_belong(run_cli: Cli, words: Words, trained: Path, tmp_path: Path) -> None:
    contradiction = run_cli("mrl", "train", "--resume", trained, "--beta", "3")
    assert contradiction.exit_code == 2
    assert "--beta 3.0 (the run has 1.0)" in words(contradiction.stderr)
    foreign = tmp_path / "foreign"
    (foreign / "checkpoints").mkdir(parents=True)
    text = (trained / "config.toml").read_text()
    (foreign / "config.toml").write_text(text.replace("wasserstein_weight = 1.0", "wasserstein_weight = 2.0"))
    (foreign / "environment.json").write_bytes((trained / "environment.json").read_bytes())
    last = (trained / "checkpoints" / "last.pt").read_bytes()
    (foreign / "checkpoints" / "last.pt").write_bytes(last)
    result = run_cli("mrl", "train", "--resume", foreign)
    assert result.exit_code == 2
    assert "wasserstein_weight (1.0 there, 2.0 now)" in words(result.stderr)
    (foreign / "config.toml").write_text(text.replace("mrl train", "ssl train"))
    result = run_cli("mrl", "evaluate", foreign)
    assert result.exit_code == 2
    assert "not of `wasskit mrl`" in words(result.stderr)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_named_and_the_previous_one_offered(
    run_cli: Cli, words: Words, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "r"
    shutil.copytree(trained, copy)
    last = copy / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-2000])
    for command in (("train", "--resume", copy), ("evaluate", copy)):
        result = run_cli("mrl", *command)
        assert result.exit_code == 2
        assert str(last) in words(result.stderr)
    result = run_cli("mrl", "train", "--resume", copy)
    assert "previous.pt" in result.stderr
    assert run_cli("mrl", "train", "--resume", copy / "checkpoints" / "previous.pt").exit_code == 0


@pytest.fixture
def one_thread() -> Iterator[dict[str, str]]:
    """Sums in the same order here and in processes started with this environment."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {**os.environ, "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(server: Server, tmp_path: Path) -> None:
    """SIGTERM within an epoch, then ``--resume``: the final weights are the same bit for bit. After SIGKILL too."""
    arguments = ("mrl", "train", "--epochs", "4", "--dims", "2,16", "--log-every", "1", "--quiet", "--run-dir")
    assert server.run([*arguments, tmp_path / "whole"], tmp_path).code == 0
    expected = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt")
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, 137)):
        path = tmp_path / number.name
        process = server.start([*arguments, path], tmp_path)
        metrics = path / "metrics.csv"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            rows = metrics.read_text().splitlines() if metrics.is_file() else []
            steps = [int(row.split(",")[1]) for row in rows[1:] if row.count(",") == 4]
            if steps and max(steps) > expected["steps_per_epoch"] + 3:
                break
            time.sleep(0.01)
        process.send(number)
        assert process.finish() == code
        stopped = load_checkpoint(path / "checkpoints" / "last.pt")["state"]
        assert 0 < stopped["step"] < expected["state"]["step"]
        assert server.run([*arguments, path, "--resume"], tmp_path).code == 0
        resumed = load_checkpoint(path / "checkpoints" / "last.pt")
        for name, tensor in expected["task"].items():
            assert torch.equal(resumed["task"][name], tensor), (number, name)
        assert metrics.read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one(server: Server, tmp_path: Path) -> None:
    """``--nproc 2``: the losses of one process step by step, and accuracies of every image counted once."""
    arguments = ("mrl", "train", "--epochs", "1", "--dims", "2,16", "--log-every", "1", "--lr", "0.01", "-q")
    one, two = tmp_path / "one", tmp_path / "two"
    for path, nproc in ((one, 1), (two, 2)):
        done = server.run([*arguments, "--run-dir", path, "--nproc", str(nproc)], tmp_path)
        assert done.code == 0, done.said
    finals, losses = [], []
    for path in (one, two):
        run = RunDirectory.open(path)
        rows = run.metrics("train")
        losses.append({name: [row.value for row in rows if row.metric == name] for name in ("loss", "wasserstein")})
        finals.append((run.summary or {})["final"])
    # Cross entropies are logged as means over the ranks' shares, divergences are those of the whole batch.
    assert losses[1]["wasserstein"] == pytest.approx(losses[0]["wasserstein"], rel=1e-3)
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=1e-3)
    assert finals[1] == pytest.approx(finals[0], abs=1.0)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("nproc", ["1", "2"])
def test_a_sweep_stops_saves_and_goes_on(server: Server, tmp_path: Path, nproc: str) -> None:
    """SIGTERM ends the sweep with what is trained saved; after kill -9 the training saves too, and the same command
    waits for it and goes on."""
    pytest.importorskip("fcntl")
    folder, run = tmp_path / "s", tmp_path / "s" / "seed-0"
    command: list[str | Path] = [
        *("mrl", "sweep", "seed=0", "--epochs", "16", "--dims", "2,16", "--batch-size", "358"),
        *("--no-tensorboard", "--quiet", "--run-dir", folder, "--nproc-per-run", nproc),
    ]

    def start(epoch: int) -> Command:
        process = server.start(command, tmp_path)
        metrics, deadline = run / "metrics.csv", time.monotonic() + 300
        while not metrics.is_file() or f"\n{epoch}," not in metrics.read_text():
            assert process.code is None, process.said
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    stopped = start(2)
    stopped.send(signal.SIGTERM)
    assert stopped.finish() == 143
    assert "0 of 1 trainings are finished, 1 saved, 0 pending" in " ".join(stopped.said.split())
    killed = start(8)
    killed.send(signal.SIGKILL)
    assert killed.finish() == 137
    assert server.run(command, tmp_path).code == 0
    assert (folder / "table.csv").is_file()
    assert not (folder / "failed.json").exists()
