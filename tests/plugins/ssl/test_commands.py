"""The commands of ``wasskit ssl`` as a user calls them, on real digits, and what they say to bad input."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trust.server import Server
from wasskit.models.backbones import build_backbone
from wasskit.models.export import load_weights
from wasskit.recipes import parse_recipe, recipe_names, recipes_folder
from wasskit.training.checkpoint import load_checkpoint
from wasskit.training.run import RunDirectory

QUICK = ("--epochs", "2", "--eval-every", "1", "--projector", "32,16", "--no-tensorboard", "--device", "cpu")


_pretrained: dict[str, Path] = {}


@pytest.fixture
def pretrained(run_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of BYOL with the uniformity term, made once."""
    if "run" in _pretrained:
        return _pretrained["run"]
    path = tmp_path_factory.mktemp("ssl") / "byol"
    result = run_cli("ssl", "byol", "--w2", *QUICK, "--run-dir", path)
    assert result.exit_code == 0, result.stderr
    assert "10-NN top-1" in result.stdout
    assert "digits/test, 10-NN top-1 (percent)" in result.stdout
    for row in ("raw pixels", "untrained", "trained"):
        assert row in result.stdout
    assert f"wasskit ssl evaluate {path}" in result.stdout.replace("\n", "")
    _pretrained["run"] = path
    return path


@pytest.mark.slow
def test_pretraining_records_everything(pretrained: Path) -> None:
    run = RunDirectory.open(pretrained, plugin="ssl")
    assert {row.metric for row in run.metrics("train")} >= {"loss", "method", "w2", "w2_weight", "lr"}
    measured = {row.metric for row in run.metrics("test")}
    assert measured >= {"knn10_top1", "knn10_top5", "w2", "lu", "alignment", "effective_rank"}
    assert [row.value for row in run.metrics("train", "w2_weight")] == pytest.approx([0.2, 0.2])
    assert run.summary is not None
    assert run.summary["best"]["metric"] == "test/knn10_top1"
    assert 0 <= run.summary["waiting_share"] <= 1
    for figure in ("learning_curves.png", "comparison.png", "spectrum.png"):
        with Image.open(run.figures / figure) as picture:
            assert min(picture.size) > 300
    compared = json.loads((pretrained / "evaluation.json").read_text())["comparison"]
    assert list(compared) == ["raw pixels", "untrained", "trained"]
    # Raw pixels do well on digits as they are, and badly on crops: a property of the data, not of the training.
    assert compared["raw pixels"]["knn10_top1"] > 97
    assert compared["raw pixels"]["knn10_top1_cropped"] < 80
    with np.load(pretrained / "spectrum.npz") as curves:
        assert set(curves) == {"untrained", "trained"}
        assert (np.diff(curves["trained"]) <= 0).all()
    state = load_checkpoint(run.checkpoints / "last.pt")
    assert any(key.startswith("target.") for key in state["task"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("moco", ("--lu",)),
        ("barlow", ("--w2",)),
        ("zerocl", ("--along", "both", "--w2")),
        ("byol", ("--no-predictor", "--lu")),
    ],
)
def test_every_method_trains(method: str, options: tuple[str, ...], run_cli: Any, tmp_path: Path) -> None:
    result = run_cli("ssl", method, *options, *QUICK, "--epochs", "1", "--run-dir", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert 0 < summary["final"]["test/w2"] < 2**0.5 + 1e-6
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["task"]
    if method == "moco":
        assert state["queue.keys"].shape == (4096, 16)
        assert int(state["queue.position"]) == 9 * 2 * 128
    if options[0] == "--no-predictor":
        assert not any(key.startswith("predictor") for key in state)


@pytest.mark.slow
def test_knn_linear_and_evaluate(pretrained: Path, run_cli: Any) -> None:
    knn = json.loads(run_cli("ssl", "knn", pretrained, "-k", "20", "--temperature", "0.07", "--json").stdout)
    assert set(knn) == {"knn20t0.07_top1", "knn20t0.07_top5"}
    linear = run_cli("ssl", "linear", pretrained, "--probe-epochs", "2", "--json")
    assert linear.exit_code == 0, linear.stderr
    values = json.loads(linear.stdout)
    assert values["linear_top1"] <= values["linear_best_top1"] <= 100
    assert load_weights(Path(values["classifier"]))[1]["classes"][0] == "0"

    evaluated = run_cli("ssl", "evaluate", pretrained, "--no-probe", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)
    run = RunDirectory.open(pretrained)
    last = {row.metric: row.value for row in run.metrics("test")}
    for name in ("knn10_top1", "w2", "lu", "alignment"):
        assert metrics[name] == pytest.approx(last[name], rel=1e-4)
    assert len(metrics["spectrum"]) <= 16
    stored = json.loads((pretrained / "evaluation.json").read_text())["digits"]
    assert {"linear_top1", "knn20t0.07_top1", "w2"} <= set(stored)
    with np.load(pretrained / "spectrum-digits.npz") as curves:
        np.testing.assert_allclose(curves["digits"], metrics["spectrum"])

    best = run_cli("ssl", "evaluate", pretrained, "--probe-epochs", "1", "--checkpoint", "best")
    assert best.exit_code == 0, best.stderr
    assert "linear top-1" in best.stdout
    assert "digits@best" in json.loads((pretrained / "evaluation.json").read_text())


@pytest.mark.slow
def test_export_serves_in_place_of_the_run(pretrained: Path, run_cli: Any, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    exported = run_cli("ssl", "export", pretrained, "-o", weights, "--json")
    assert exported.exit_code == 0, exported.stderr
    path = Path(json.loads(exported.stdout)["weights"])
    state, header = load_weights(path)
    assert header["kind"] == "ssl"
    assert header["method"] == "byol"
    assert all(torch.isfinite(x).all() for x in state.values() if x.is_floating_point())
    a = json.loads(run_cli("ssl", "knn", pretrained, "--json").stdout)
    b = json.loads(run_cli("ssl", "knn", path, "--json").stdout)
    assert a == b
    assert (tmp_path / "evaluation.json").is_file()
    backbone = build_backbone("tiny", image_size=8, channels=1, weights=path)
    assert torch.equal(next(backbone.parameters()), state["backbone." + next(iter(dict(backbone.named_parameters())))])


def test_embed_a_folder(pretrained: Path, run_cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 30), 60 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    result = run_cli("ssl", "embed", pretrained, folder, "-o", tmp_path / "e.npy", "--workers", "0")
    assert result.exit_code == 0, result.stderr
    features = np.load(tmp_path / "e.npy")
    assert features.shape == (3, 256)
    assert np.isfinite(features).all()
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 4
    result = run_cli(
        "ssl", "embed", pretrained, folder, "-o", tmp_path / "z", "--workers", "0", "--what", "projections"
    )
    assert np.load(tmp_path / "z.npy").shape == (3, 16)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "split", "reason"), [("", "train", "needs labels"), ("faces", "test", "are of one")])
def test_images_without_labels(run_cli: Any, tmp_path: Path, part: str, split: str, reason: str) -> None:
    """A flat folder, or one of one class, pretrains without k-NN; a linear probe on it is refused."""
    folder = tmp_path / "flat"
    (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / part / f"{i}.png")
    data = ("--dataset", "imagefolder", "--data-root", folder, "--workers", "0")
    size = ("--image-size", "16", "--backbone", "tiny", "--batch-size", "6")
    result = run_cli("ssl", "barlow", *data, *size, *QUICK, "--run-dir", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert {key.partition("/")[2] for key in json.loads(result.stdout)["final"]} == {
        "w2", "lu", "alignment", "effective_rank",
    }  # fmt: skip
    for command in ("linear", "knn"):
        refused = run_cli("ssl", command, tmp_path / "run", "--data-root", folder, "--workers", "0")
        assert refused.exit_code == 2
        assert reason in refused.stderr
    # The images are where the run found them.
    measured = run_cli("ssl", "evaluate", tmp_path / "run", "--workers", "0", "--json")
    assert f"imagefolder/{split}" in measured.stderr
    assert set(json.loads(measured.stdout)) == {"w2", "lu", "alignment", "effective_rank", "spectrum"}


@pytest.mark.slow
def test_stl10_trains_on_its_unlabelled_part_and_votes_by_its_labelled_one(run_cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 6), ("unlabeled", 10), ("test", 4)):
        rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{name}_X.bin")
        (np.arange(count, dtype=np.uint8) % 3 + 1).tofile(folder / f"{name}_y.bin")
    data = ("--dataset", "stl10", "--data-root", tmp_path, "--image-size", "16", "--backbone", "tiny")
    result = run_cli("ssl", "zerocl", *data, *QUICK, "--batch-size", "8", "--run-dir", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert "stl10/train+unlabelled: 16 of 105,000 images" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["steps"] == 2 * (16 // 8)
    assert "test/knn6_top1" in summary["final"]


BAD = [
    (("byol", "--w2", "--w2-weight", "-0.2"), "--w2-weight"),
    (("barlow", "--w2-weight-final", "-1"), "--w2-weight-final"),
    (("byol", "--batch-size", "1"), "at least 2"),
    (("byol", "--w2", "--lu"), "--w2 and --lu"),
    (("byol", "--knn-k", "2000"), "2000 neighbours"),
    (("moco", "--queue", "100"), "--queue"),
    (("moco", "--shuffle"), "--no-sync-bn"),
    (("byol", "--batch-size", "5000"), "fewer than one batch"),
    (("byol", "--w2-weight", "0.5"), "counts with --regulariser w2 only"),
    (("barlow", "--w2", "--lu-weight-final", "1"), "--regulariser lu only; here is --w2 (--regulariser w2)"),
    (("zerocl", "--along", "rows"), "rows"),
    (("byol", "--min-crop", "0"), "--min-crop"),
    (("byol", "--dataset", "cifar11"), "cifar10"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_requests_are_one_sentence(words: tuple[str, ...], said: str, run_cli: Any, tmp_path: Path) -> None:
    result = run_cli("ssl", *words, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_runs_of_others_and_missing_runs_are_refused(pretrained: Path, run_cli: Any, tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "mrl", command="mrl train", options={})
    for command in ("knn", "linear", "evaluate", "export"):
        result = run_cli("ssl", command, tmp_path / "mrl")
        assert result.exit_code == 2
        assert "mrl train" in result.stderr
    assert "no run directory" in run_cli("ssl", "knn", tmp_path / "none").stderr
    assert "3000 neighbours" in run_cli("ssl", "knn", pretrained, "-k", "3000").stderr
    other = run_cli("ssl", "moco", "--resume", pretrained)
    assert other.exit_code == 2
    assert "ssl byol" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["byol", "moco"])
def test_interrupted_and_resumed_equals_uninterrupted(method: str, run_cli: Any, tmp_path: Path) -> None:
    """Bit for bit on the CPU: networks, moving average, queue, optimiser, metrics."""
    options = ("ssl", method, "--w2", *QUICK, "--checkpoint-every", "1", "--seed", "3")
    assert run_cli(*options, "--run-dir", tmp_path / "whole").exit_code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    # What the interruption leaves behind: the checkpoint of the first epoch, and records beyond it.
    checkpoints = tmp_path / "parts" / "checkpoints"
    (checkpoints / "last.pt").unlink()
    (checkpoints / "previous.pt").rename(checkpoints / "last.pt")
    assert load_checkpoint(checkpoints / "last.pt")["task"].keys()
    resumed = run_cli("ssl", method, "--resume", tmp_path / "parts")
    assert resumed.exit_code == 0, resumed.stderr
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "parts"))
    assert_equal(whole["task"], parts["task"])
    assert_equal({k: v for k, v in whole.items() if "optim" in k}, {k: v for k, v in parts.items() if "optim" in k})
    metrics = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.mark.slow
def test_sigterm_and_resume_in_a_real_process(server: Server, tmp_path: Path) -> None:
    """A kill in the middle of an epoch, then --resume: the same last checkpoint as without the kill."""
    command = ["ssl", "moco", "--w2", *QUICK, "--epochs", "6", "--eval-every", "6", "--log-every", "7", "-q"]
    killed = server.start([*command, "--run-dir", tmp_path / "run"], tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text().count("loss") >= 2):
        time.sleep(0.05)
    killed.send(signal.SIGTERM)
    assert killed.finish() == 143
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    for words in (("ssl", "moco", "-q", "--resume", "run"), (*command, "--run-dir", "whole")):
        done = server.run(words, tmp_path)
        assert done.code == 0, done.said
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "run"))
    assert_equal(whole["task"], parts["task"])
    assert not torch.equal(step["task"]["queue.keys"], parts["task"]["queue.keys"])


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one(server: Server, tmp_path: Path) -> None:
    """The whole command, views and batch norm included: the same networks, queue and metrics, up to rounding."""
    command = ["ssl", "moco", "--w2", *QUICK, "--epochs", "1", "--json"]
    found = {}
    for count in (1, 2):
        path = tmp_path / str(count)
        done = server.run([*command, "--nproc", str(count), "--run-dir", path], tmp_path)
        assert done.code == 0, done.said
        result = json.loads(done.said[done.said.index("\n{") : done.said.rindex("}") + 1])
        found[count] = result, load_checkpoint(path / "checkpoints" / "last.pt")["task"]
    assert "2 processes; batch norm takes the statistics of all processes together" in done.said
    (alone, state), (together, joined) = found[1], found[2]
    assert together["final"].keys() == alone["final"].keys()
    for name, number in alone["final"].items():
        # Of the 359 test images, rounding may carry one over where two classes have about as many votes.
        one = 100 / 359 + 1e-9 if "_top" in name else 0.0
        assert together["final"][name] == pytest.approx(number, rel=1e-3, abs=one), name
    for name, value in state.items():
        torch.testing.assert_close(joined[name], value, rtol=1e-3, atol=1e-4, msg=name)


# Fang et al. 2024, table 2: linear Acc@1 and Acc@5, W2, L_U and alignment on CIFAR-10, then on CIFAR-100.
TABLE = """
moco       90.65 99.81 1.06 -3.75 0.51   60.27 86.29 1.07 -3.60 0.46
moco-lu    90.98 99.67 0.98 -3.82 0.53   61.21 87.32 0.98 -3.81 0.52
moco-w2    91.41 99.68 0.33 -3.84 0.63   63.68 88.48 0.28 -3.86 0.66
byol       89.53 99.71 1.21 -2.99 0.31   63.66 88.81 1.20 -2.87 0.33
byol-lu    90.09 99.75 1.09 -3.66 0.40   62.68 88.44 1.08 -3.70 0.51
byol-w2    90.31 99.77 0.38 -3.90 0.65   65.16 89.25 0.36 -3.91 0.69
barlow     91.16 99.80 0.22 -3.91 0.75   68.19 90.64 0.23 -3.91 0.75
barlow-lu  91.38 99.77 0.21 -3.92 0.76   68.41 90.99 0.22 -3.91 0.76
barlow-w2  91.43 99.78 0.19 -3.92 0.76   68.47 90.64 0.19 -3.91 0.79
zerocl     91.35 99.74 0.15 -3.94 0.70   68.50 90.97 0.15 -3.93 0.75
zerocl-lu  91.28 99.74 0.15 -3.94 0.72   68.44 90.91 0.15 -3.93 0.74
zerocl-w2  91.42 99.82 0.14 -3.94 0.71   68.55 91.02 0.14 -3.94 0.76
"""


def test_recipes_carry_the_published_table_and_setting() -> None:
    names = set(recipe_names("ssl"))
    keys = [f"test/{key}" for key in ("linear_top1", "linear_top5", "w2", "lu", "alignment")]
    rows = [line.split() for line in TABLE.split("\n") if line]
    assert names == {
        f"ssl/{dataset}-{row}" for row, *_ in rows for dataset in ("cifar10", "cifar100", "stl10", "tiny-imagenet")
    }
    for row, *figures in rows:
        method, _, term = row.partition("-")
        for place, dataset in enumerate(("cifar10", "cifar100")):
            name = f"ssl/{dataset}-{row}"
            recipe = parse_recipe(name, recipes_folder() / f"{name}.toml")
            published = [float(figure) for figure in figures[5 * place : 5 * place + 5]]
            assert [recipe.paper["metrics"][key] for key in keys] == published, name
            options = recipe.options
            assert recipe.command == f"ssl {method}"
            assert (options["dataset"], options["stem"], options["batch_size"]) == (dataset, "small-pad2", 256)
            assert (options["epochs"], options["lr"], options["bias_lr"]) == (500, 0.2, 0.005)
            assert [options.get(key, False) for key in ("w2", "lu")] == [term == "w2", term == "lu"]
            # Without a predictor nothing but the uniformity term keeps BYOL from collapsing.
            assert options.get("predictor", True) == (row != "byol-lu")


@pytest.mark.slow
def test_pretraining_on_real_cifar(data_root: Path, run_cli: Any, tmp_path: Path) -> None:
    # A quarter of the pixels: a pass over all 5,000 images is no longer than a test may be.
    data = ("--dataset", "cifar10", "--data-root", data_root, "--image-size", "16")
    few = ("--epochs", "1", "--projector", "64,32")
    result = run_cli("ssl", "byol", "--w2", *data, *few, "--run-dir", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert "test/knn200_top1" in summary["final"]
    assert summary["comparison"]["trained"]["knn200_top1"] > 20
