"""The commands of `wasskit w2gn`, run as they are typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit import TransportMap
from wasskit.data.registry import load_dataset
from wasskit.models.export import save_weights
from wasskit.models.icnn import ConvICNN, QuadraticPotential
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments import apply
from wasskit.plugins.w2gn.experiments.apply import SavedMap
from wasskit.plugins.w2gn.experiments.autoencoder import Autoencoder, load_autoencoder
from wasskit.plugins.w2gn.maps import save_map

pytestmark = pytest.mark.usefixtures("undrawn")

RunCli = Callable[..., Any]
SMALL = ("--hidden", "16,8", "--batch-size", "64", "--device", "cpu", "--eval-every", "20")


def summary(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.mark.slow
def test_toy_trains_draws_and_resumes(run_cli: RunCli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = ("--steps", "30", "--eval-every", "10", "--test-size", "500")
    first = summary(run_cli("w2gn", "toy", *SMALL, *steps, "--run-dir", run, "--json"))
    assert first["steps"] == 30
    assert first["final"]["test/energy_forward"] < 0.05
    assert first["final"]["test/modes_of"] == 8
    for name in ("figures/maps.png", "figures/energy.png", "map.safetensors", "config.toml", "summary.json"):
        assert (run / name).is_file(), name
    again = summary(run_cli("w2gn", "toy", "--resume", run, "--json"))
    assert again["final"] == first["final"]


CLOUD = ("--eval-every", "4", "--steps", "12", "--test-size", "200")


@pytest.mark.slow
def test_published_algorithm_runs(run_cli: RunCli, tmp_path: Path) -> None:
    result = summary(
        run_cli(
            "w2gn", "toy", *SMALL, "--start", "pretrain", "--pretrain-steps", "20", "--refine", "none", "--steps", "10",
            "--rank", "3", "--betas", "0.8,0.99", "--conjugate-betas", "0.4,0.4", "--schedule", "constant",
            "--lr", "0.001",
            "--ema", "0", "--sampling", "random", "--test-size", "200", "--run-dir", tmp_path / "run", "--json",
        )
    )  # fmt: skip
    assert result["steps"] == 30
    assert np.isfinite(result["final"]["test/energy_forward"])


@pytest.mark.slow
def test_gaussians_table_over_dimensions(run_cli: RunCli, tmp_path: Path) -> None:
    command = (
        "w2gn",
        "gaussians",
        "--dim",
        "2,8",
        *SMALL,
        "--steps",
        "20",
        "--test-size",
        "500",
        "--run-dir",
        tmp_path / "g",
    )
    result = summary(run_cli(*command, "--json"))
    for dim in ("2", "8"):
        scores = result["dimensions"][dim]["scores"]
        assert scores["uvp_forward"] < 0.5
        assert scores["uvp_inverse"] < 0.5
        # Between Gaussians the Gaussian map is the answer.
        assert result["dimensions"][dim]["kept"] == "start"
        assert scores == result["dimensions"][dim]["scores_at_start"]
    assert json.loads((tmp_path / "g" / "gaussians.json").read_text())["dimensions"]["8"]["pair"] == "gaussians 8"
    printed = run_cli(*command, "--resume")
    assert printed.exit_code == 0, printed.stderr
    assert "large-scale OT, published" in printed.stdout
    assert "7.5" in printed.stdout


@pytest.mark.slow
def test_benchmark_on_a_made_pair(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WASSKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    result = run_cli(
        "w2gn",
        "benchmark",
        *SMALL,
        "--steps",
        "60",
        "--test-size",
        "500",
        "--json",
        "--warmup-steps",
        "5",
        "--keep",
        "end",  # what so few steps gain is not shown by the points that choose
    )
    scores = summary(result)
    assert "made from random networks" in result.stderr
    assert scores["scores"]["uvp_forward"] < 0.95 * scores["scores_at_start"]["uvp_forward"]
    assert (tmp_path / "runs" / "w2gn" / "benchmark-2" / "figures" / "uvp.png").is_file()


@pytest.mark.slow
def test_color_and_apply(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, low in (("a.png", 0), ("b.png", 120)):
        Image.fromarray(generator.integers(low, low + 120, (50, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    run = tmp_path / "run"
    result = summary(
        run_cli(
            "w2gn", "color", tmp_path / "a.png", tmp_path / "b.png", *SMALL, "--steps", "20", "--test-size", "300",
            "--keep", "end", "--run-dir", run, "--save-map", tmp_path / "kept.safetensors", "--json",
        )
    )  # fmt: skip
    mapped = np.asarray(Image.open(run / "a-forward.png"))
    assert mapped.shape == (50, 60, 3)
    assert abs(float(mapped.mean()) - 180) < 6
    assert abs(float(np.asarray(Image.open(run / "b-inverse.png")).mean()) - 60) < 6
    assert result["final"]["test/energy_forward"] < 0.05 * result["final"]["test/energy_before"]
    assert (run / "figures" / "palettes.png").is_file()
    assert (run / "figures" / "images.png").is_file()
    assert run_cli("w2gn", "apply", tmp_path / "kept.safetensors", tmp_path / "a.png").exit_code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a-mapped.png")), mapped)
    exact = tmp_path / "exact.png"
    smooth = ("--smooth", "0", "--output", exact)
    assert run_cli("w2gn", "apply", run, tmp_path / "a.png", *smooth).exit_code == 0
    difference = np.asarray(Image.open(exact)).astype(int) - mapped
    assert 0 < np.abs(difference).mean() < 6
    refused = run_cli("w2gn", "apply", run, tmp_path / "a.png")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr


@pytest.mark.slow
def test_toy_says_which_modes_it_misses_and_what_to_try(run_cli: RunCli, tmp_path: Path) -> None:
    result = run_cli("w2gn", "toy", *SMALL, "--target", "49gaussians", "--steps", "1", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "of 49 modes get less than half the share of points: train longer (--steps 3)" in said
    assert "wasskit w2gn toy --recipe w2gn/toy-49gaussians" in said


@pytest.mark.slow
def test_apply_to_points(run_cli: RunCli, tmp_path: Path) -> None:
    toy_run = tmp_path / "run"
    summary(run_cli("w2gn", "toy", *SMALL, "--steps", "30", "--test-size", "500", "--run-dir", toy_run, "--json"))
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.save(tmp_path / "p.npy", points)
    assert run_cli("w2gn", "apply", toy_run, tmp_path / "p.npy", "--output", tmp_path / "q.npy").exit_code == 0
    back = ("--inverse", "--refine", "newton", "--output", tmp_path / "r.npy")
    assert run_cli("w2gn", "apply", toy_run, tmp_path / "q.npy", *back).exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), points, atol=1e-2)
    np.save(tmp_path / "wide.npy", np.zeros((5, 3), dtype=np.float32))
    wrong = run_cli("w2gn", "apply", toy_run, tmp_path / "wide.npy")
    assert wrong.exit_code == 2
    assert "dimension 3; the map takes points of dimension 2" in " ".join(wrong.stderr.split())


@pytest.mark.slow
def test_fit_is_the_estimator_in_a_run(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(80, 3)), np.exp(generator.normal(size=(60, 3)) / 2)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "y.npz", y=y, other=np.zeros(3))
    options = ("--steps", "12", "--hidden", "8,5", "--batch-size", "64", "--keep", "end", "--device", "cpu")
    run = tmp_path / "run"
    found = summary(
        run_cli("w2gn", "fit", tmp_path / "x.npy", tmp_path / "y.npz:y", *options, "--run-dir", run, "--json")
    )
    maps = TransportMap(steps=12, hidden=(8, 5), batch_size=64, keep="end").fit(x, y)
    assert {f"test/{name}": value for name, value in maps.scores_.items()}.items() <= found["final"].items()
    for name in ("figures/clouds.png", "map.safetensors", "summary.json"):
        assert (run / name).is_file(), name
    # Rows are written as float32, of which the relative rounding is 6e-8 and that of the map's arithmetic a few times.
    assert run_cli("w2gn", "apply", run, tmp_path / "x.npy").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "x-mapped.npy"), maps.transform(x), rtol=1e-4, atol=1e-5)
    back = ("--inverse", "--refine", "lbfgs", "-o", tmp_path / "back.npy")
    assert run_cli("w2gn", "apply", run, tmp_path / "x-mapped.npy", *back).exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "back.npy"), x, atol=1e-3)
    exported = summary(run_cli("w2gn", "export", run, "-o", tmp_path / "out.safetensors", "--json"))
    np.testing.assert_array_equal(TransportMap.load(exported["weights"]).transform(x), maps.transform(x))


@pytest.mark.slow
def test_rows_are_mapped_some_at_a_time(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float16)
    maps = TransportMap(steps=1, hidden=(8, 5)).fit(x, x + 1)
    maps.save(tmp_path / "map.safetensors")
    np.save(tmp_path / "x.npy", x)
    calls = []

    def counted(self: SavedMap, points: torch.Tensor) -> torch.Tensor:
        calls.append(len(points))
        return self.transport.forward_map(points)

    monkeypatch.setattr(apply, "ROWS", 20)
    monkeypatch.setattr(SavedMap, "__call__", counted)
    assert run_cli("w2gn", "apply", tmp_path / "map.safetensors", tmp_path / "x.npy").exit_code == 0
    assert calls == [20, 20, 10]
    written = np.load(tmp_path / "x-mapped.npy")
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, maps.transform(x.astype(np.float32)), rtol=1e-5, atol=1e-6)
    x[30] = np.nan
    np.save(tmp_path / "holes.npy", x)
    refused = run_cli("w2gn", "apply", tmp_path / "map.safetensors", tmp_path / "holes.npy")
    assert refused.exit_code == 2
    assert "holes.npy has 1 rows with values that are not finite, the first is row 30" in " ".join(
        refused.stderr.split()
    )
    assert not (tmp_path / "holes-mapped.npy").exists()


@pytest.mark.slow
def test_domain_on_digits(run_cli: RunCli, tmp_path: Path) -> None:
    result = summary(
        run_cli(
            "w2gn",
            "domain",
            *SMALL,
            "--classifier-steps",
            "150",
            "--steps",
            "60",
            "--run-dir",
            tmp_path / "run",
            "--json",
        )
    )
    final = result["final"]
    assert final["test/knn_mapped"] > final["test/knn_before"]
    assert final["test/classifier_target"] > 60
    assert (tmp_path / "run" / "figures" / "features.png").is_file()
    assert (tmp_path / "run" / "classifier.pt").is_file()


@pytest.mark.slow
def test_latent_on_digits_and_a_loaded_autoencoder(run_cli: RunCli, tmp_path: Path) -> None:
    shared = ("--latent", "4", "--filters", "8", "--steps", "20")
    result = summary(
        run_cli("w2gn", "latent", *SMALL, *shared, "--autoencoder-steps", "40", "--run-dir", tmp_path / "a", "--json")
    )
    assert result["final"]["test/energy_forward"] <= result["final"]["test/energy_before"]
    assert (tmp_path / "a" / "figures" / "samples.png").is_file()
    weights = tmp_path / "a" / "autoencoder.pt"
    # What is reported and saved is the network in evaluation mode, as the map was fitted to it.
    autoencoder = Autoencoder(8, 1, 8, 4).eval()
    load_autoencoder(autoencoder, weights)
    digits = load_dataset("digits", "test").images
    assert digits is not None
    images = digits.float() / 127.5 - 1
    with torch.no_grad():
        error = float((autoencoder(images)[0] - images).square().mean())
    assert result["final"]["test/reconstruction"] == pytest.approx(error, rel=1e-5)
    loaded = ("--autoencoder", weights, "--run-dir", tmp_path / "b", "--json")
    again = summary(run_cli("w2gn", "latent", *SMALL, *shared, *loaded))
    assert again["final"]["test/reconstruction"] == pytest.approx(error, rel=1e-5)
    other = run_cli("w2gn", "latent", *SMALL, "--latent", "5", "--filters", "8", "--autoencoder", weights)
    assert other.exit_code == 2
    assert "does not fit the network that --image-size" in " ".join(other.stderr.split())


@pytest.mark.slow
def test_style_on_folders(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for letter, low in (("A", 0), ("B", 100)):
        (tmp_path / f"train{letter}").mkdir()
        for i in range(10):
            array = generator.integers(low, low + 100, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / f"train{letter}" / f"{i}.png")
    options = ("--image-size", "8", "--width", "4", "--steps", "6", "--batch-size", "4", "--images", tmp_path)
    result = summary(run_cli("w2gn", "style", *options, "--run-dir", tmp_path / "run", "--json"))
    assert result["final"]["test/colours_forward"] < 0.2 * result["final"]["test/colours_before"]
    assert (tmp_path / "run" / "figures" / "mapped.png").is_file()
    published = (
        "--start",
        "pretrain",
        "--pretrain-steps",
        "3",
        "--refine",
        "none",
        "--run-dir",
        tmp_path / "published",
    )
    assert run_cli("w2gn", "style", *options, *published).exit_code == 0


def test_maps_of_images_are_not_solved_by_newton(run_cli: RunCli, tmp_path: Path) -> None:
    save_map(tmp_path / "map.safetensors", W2GN(*(QuadraticPotential(ConvICNN(8, 3, 2)) for _ in range(2))))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    back = ("w2gn", "apply", tmp_path / "map.safetensors", tmp_path / "image.png", "--inverse", "--device", "cpu")
    result = run_cli(*back, "--refine", "newton")
    assert result.exit_code == 2
    assert "give --refine lbfgs" in result.stderr
    assert run_cli(*back, "--refine", "lbfgs").exit_code == 0


@pytest.mark.slow
def test_style_warns_of_hours(run_cli: RunCli, tmp_path: Path) -> None:
    # At the published size one step on a processor takes seconds; the estimate comes before the first.
    result = run_cli(
        "w2gn", "style", "--image-size", "96", "--width", "4", "--patches", "16", "--steps", "1", "--batch-size", "2",
        "--keep", "end", "--run-dir", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "a GPU is advised" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("toy", "--target", "9gaussians"), "is not one of"),
        (("toy", "--target", "absent.npy"), "no file absent.npy"),
        (("toy", "--lambda", "0"), "--lambda: 0.0 is out of range, expected above 0"),
        (("toy", "--lambda", "-3"), "expected above 0"),
        (("latent", "--images", "photos", "--dataset", "mnist"), "--dataset counts without --images only; here is"),
        (("style", "--images", "photos", "--patches", "32"), "--patches counts without --images only; here is"),
        (("toy", "--betas", "0.9"), "expected two numbers"),
        (("color", "one.png"), "Two photographs are needed"),
        (("domain", "--source", "mnist", "--target", "mnist"), "nothing to adapt"),
        (("latent", "--image-size", "20"), "8, 16, 32, 64"),
        (("benchmark", "--pairs", "absent.npz"), "no benchmark pair at absent.npz"),
        (("style", "--images", "absent"), "There is no folder"),
        (("style", "--refine", "newton"), "give --refine lbfgs"),
        (("style", "--hidden", "8,8"), "--hidden has no effect in `wasskit w2gn style`: leave it out"),
        (("toy", "--target", "nan.npy"), "nan.npy has 1 rows with NaN or infinite entries (rows 2)"),
        (("toy", "--target", "flat.npy"), "flat.npy must be a matrix (N, m)"),
        (("toy", "--target", "moons", "--source", "cube.npy"), "dimension 3 and --target moons dimension 2"),
        (("color", "grey.png", "rgb.png"), "grey.png is a grey image"),
        (("color", "rgb.png", "alpha.png"), "alpha.png has an alpha channel"),
        (("color", "deep.png", "rgb.png"), "deep.png has more than 8 bits per channel"),
        (("color", "rgb.png", "text.png"), "text.png is not a readable image"),
        (("color", "rgb.png", "absent.png"), "no image absent.png"),
        (("domain", "--source", "usps", "--data-root", "."), "The data set usps is not in"),
        (("latent", "--images", "."), "an autoencoder needs at least twenty"),
        (("latent", "--vgg-weights", "text.png"), "not a readable torch file of weights"),
        (("latent", "--autoencoder", "text.png"), "not a readable torch file of weights"),
        (("benchmark", "--pairs", "rgb.png"), "not a readable .npz file"),
        (("fit", "cube.npy"), "name SOURCE and TARGET, or neither"),
        (("fit", "cube.npy", "nan.npy"), "nan.npy has 5 rows: expected at least 20"),
        (("fit", "cube.npy", "holes.npy"), "holes.npy has 2 rows with values that are not finite, the first is row 7"),
        (("fit", "cube.npy", "plane.npy"), "plane.npy has rows of 2 numbers, cube.npy of 3"),
        (("fit", "cube.npy", "absent.npy"), "no file absent.npy"),
        (("fit", "cube.npy", "rgb.png"), "rgb.png: embeddings are read from .npy"),
        (("fit", "cube.npy", "cube.npy", "--held-out", "0.8"), "--held-out: 0.8 is out of range"),
        (("apply", "other.safetensors", "cube.npy"), "is not a model saved by `wasskit w2gn`"),
        (("apply", "absent.safetensors", "x.npy"), "no file of weights"),
        (("apply", "absent.safetensors", "x.npy", "--refine", "newton"), "--inverse"),
    ],
)
def test_bad_requests_get_one_sentence(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rubbish(tmp_path)
    result = run_cli("w2gn", *arguments)
    assert result.exit_code == 2, result.stderr
    assert reason in " ".join(result.stderr.replace(f"{tmp_path}{os.sep}", "").split())
    assert "Traceback" not in result.stderr


def write_rubbish(folder: Path) -> None:
    """Files that one command or another refuses, and two that are in order."""
    points = np.zeros((5, 2))
    points[2, 1] = np.nan
    np.save(folder / "nan.npy", points)
    np.save(folder / "flat.npy", np.zeros(5))
    np.save(folder / "cube.npy", np.random.default_rng(0).normal(size=(50, 3)))
    np.save(folder / "plane.npy", np.random.default_rng(0).normal(size=(50, 2)))
    holes = np.zeros((30, 3))
    holes[[7, 9], 1] = np.inf
    np.save(folder / "holes.npy", holes)
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "rgb.png")
    Image.fromarray(rgb[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(folder / "alpha.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    (folder / "text.png").write_text("no image")
    save_weights(folder / "other.safetensors", torch.nn.Linear(2, 2), {"kind": "classifier"})


@pytest.mark.slow
def test_degenerate_clouds_are_mapped(run_cli: RunCli, tmp_path: Path) -> None:
    """A point, a line and fewer points than a batch: nothing to learn from their covariances."""
    np.save(tmp_path / "point.npy", np.full((3, 2), 4.0))
    np.save(tmp_path / "line.npy", np.linspace(0, 1, 20)[:, None] * [1.0, 2.0])
    for source, target in (("point", "line"), ("line", "point"), ("line", "line")):
        paths = ("--source", tmp_path / f"{source}.npy", "--target", tmp_path / f"{target}.npy")
        run = tmp_path / f"{source}-{target}"
        result = run_cli("w2gn", "toy", *paths, *SMALL, *CLOUD, "--run-dir", run, "--json")
        # How much of the variance is lost there and back has no answer for a point, which has none.
        final = summary(result)["final"]
        assert np.isfinite([final["test/energy_forward"], final["test/energy_inverse"]]).all()
        assert target != "point" or abs(final["test/energy_forward"]) < 1e-3
        assert (final["test/cycle_error"] is None) == (source == "point")


@pytest.mark.slow
def test_files_of_points_are_not_whitened(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "b.npy", 3 * generator.normal(size=(300, 2)) + [10.0, -20.0])
    result = run_cli("w2gn", "toy", "--target", tmp_path / "b.npy", *SMALL, *CLOUD, "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    np.save(tmp_path / "p.npy", generator.normal(size=(500, 2)).astype(np.float32))
    assert run_cli("w2gn", "apply", tmp_path / "run", tmp_path / "p.npy").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "p-mapped.npy").mean(0), [10, -20], atol=0.6)


def test_a_rate_far_too_high_stops_the_run(run_cli: RunCli, tmp_path: Path) -> None:
    options = ("--lr", "1e30", "--warmup-steps", "0", "--schedule", "constant", "--run-dir", tmp_path / "run")
    result = run_cli("w2gn", "toy", *SMALL, *CLOUD, *options)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "step" in result.stderr


def test_clouds_of_different_dimension(run_cli: RunCli, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 2)))
    np.save(tmp_path / "b.npy", np.zeros((10, 3)))
    result = run_cli("w2gn", "toy", "--source", tmp_path / "a.npy", "--target", tmp_path / "b.npy")
    assert result.exit_code == 2
    assert "same dimension" in " ".join(result.stderr.split())


def test_clouds_of_too_many_dimensions_are_refused_before_training(run_cli: RunCli, tmp_path: Path) -> None:
    """Their maps could not be loaded again, and the covariances of the start would not fit in memory."""
    np.save(tmp_path / "wide.npy", np.zeros((20, 21_202), dtype=np.float32))
    run = tmp_path / "run"
    result = run_cli("w2gn", "fit", tmp_path / "wide.npy", tmp_path / "wide.npy", "--run-dir", run)
    assert result.exit_code == 2
    assert "points of 21,202 dimensions; a cloud may have up to 21,201" in " ".join(result.stderr.split())
    assert not run.exists()


def test_clouds_in_space(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", generator.normal(size=(400, 3)))
    np.save(tmp_path / "b.npy", generator.normal(size=(300, 3)) * [1, 2, 0.5] + 4)
    result = summary(
        run_cli(
            "w2gn", "toy", "--source", tmp_path / "a.npy", "--target", tmp_path / "b.npy", "--no-whiten", *SMALL,
            "--steps", "10", "--test-size", "300", "--run-dir", tmp_path / "run", "--json",
        )
    )  # fmt: skip
    assert result["final"]["test/energy_forward"] < 0.05
