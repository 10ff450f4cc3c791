"""The commands of `wasskit w2gn`, run as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.plugins.w2gn.maps import load_map

RunCli = Callable[..., Any]
SMALL = ("--hidden", "16,8", "--batch-size", "64", "--device", "cpu", "--eval-every", "20")


def summary(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy") / "run"


def test_toy_trains_draws_and_resumes(run_cli: RunCli, toy_run: Path) -> None:
    steps = ("--steps", "30", "--eval-every", "10", "--test-size", "500")
    first = summary(run_cli("w2gn", "toy", *SMALL, *steps, "--run-dir", toy_run, "--json"))
    assert first["steps"] == 30
    assert first["final"]["test/energy_forward"] < 0.05
    assert first["final"]["test/modes_of"] == 8
    for name in ("figures/maps.png", "figures/energy.png", "map.safetensors", "config.toml", "summary.json"):
        assert (toy_run / name).is_file(), name
    again = summary(run_cli("w2gn", "toy", "--resume", toy_run, "--json"))
    assert again["final"] == first["final"]


def test_toy_stopped_and_resumed_equals_one_run(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasskit.plugins.w2gn.task import TransportTask

    options = (
        "w2gn",
        "toy",
        *SMALL,
        "--target",
        "moons",
        "--steps",
        "12",
        "--eval-every",
        "4",
        "--test-size",
        "200",
    )
    whole = summary(run_cli(*options, "--run-dir", tmp_path / "whole", "--json"))
    plain = TransportTask.step

    def stop(self: TransportTask, batch: Any, stepper: Any) -> Any:
        if stepper.progress.step == 8:
            raise KeyboardInterrupt
        return plain(self, batch, stepper)

    with monkeypatch.context() as patch:
        patch.setattr(TransportTask, "step", stop)
        assert run_cli(*options, "--run-dir", tmp_path / "half").exit_code == 130
    resumed = summary(run_cli("w2gn", "toy", "--resume", tmp_path / "half", "--json"))
    assert resumed["final"] == whole["final"]
    maps = [load_map(tmp_path / name / "map.safetensors")[0].state_dict() for name in ("whole", "half")]
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


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
    assert (
        json.loads((tmp_path / "g" / "gaussians.json").read_text())["dimensions"]["8"]["pair"]
        == "gaussians 8"
    )
    printed = run_cli(*command, "--resume")
    assert printed.exit_code == 0, printed.stderr
    assert "large-scale OT, published" in printed.stdout
    assert "7.5" in printed.stdout


def test_benchmark_on_a_made_pair(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WASSKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    result = run_cli(
        "w2gn", "benchmark", *SMALL, "--steps", "60", "--test-size", "500", "--json", "--warmup-steps", "5"
    )
    scores = summary(result)
    assert "made from random networks" in result.stderr
    assert scores["scores"]["uvp_forward"] < 0.95 * scores["scores_at_start"]["uvp_forward"]
    assert (tmp_path / "runs" / "w2gn" / "benchmark-2" / "figures" / "uvp.png").is_file()


def test_color_and_apply(run_cli: RunCli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, low in (("a.png", 0), ("b.png", 120)):
        Image.fromarray(generator.integers(low, low + 120, (50, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    run = tmp_path / "run"
    result = summary(
        run_cli(
            "w2gn", "color", tmp_path / "a.png", tmp_path / "b.png", *SMALL, "--steps", "20", "--test-size", "300",
            "--run-dir", run, "--save-map", tmp_path / "kept.safetensors", "--json",
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
    refused = run_cli("w2gn", "apply", run, tmp_path / "a.png")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr


def test_apply_to_points(run_cli: RunCli, tmp_path: Path, toy_run: Path) -> None:
    if not (toy_run / "map.safetensors").is_file():
        pytest.skip("the toy run is missing")
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.save(tmp_path / "p.npy", points)
    assert (
        run_cli("w2gn", "apply", toy_run, tmp_path / "p.npy", "--output", tmp_path / "q.npy").exit_code == 0
    )
    back = ("--inverse", "--refine", "newton", "--output", tmp_path / "r.npy")
    assert run_cli("w2gn", "apply", toy_run, tmp_path / "q.npy", *back).exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), points, atol=1e-2)
    np.save(tmp_path / "wide.npy", np.zeros((5, 3), dtype=np.float32))
    wrong = run_cli("w2gn", "apply", toy_run, tmp_path / "wide.npy")
    assert wrong.exit_code == 2
    assert "dimension 3; the map takes points of dimension 2" in " ".join(wrong.stderr.split())


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


@pytest.mark.parametrize("stop_at", [30, 70])
def test_domain_stopped_in_either_stage_goes_on(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    from wasskit.plugins.w2gn.stages import TwoStages

    options = ("w2gn", "domain", *SMALL, "--classifier-steps", "60", "--steps", "20")
    whole = summary(run_cli(*options, "--run-dir", tmp_path / "whole", "--json"))
    plain = TwoStages.step

    def stop(self: TwoStages, batch: Any, stepper: Any) -> Any:
        if stepper.progress.step == stop_at:
            raise KeyboardInterrupt
        return plain(self, batch, stepper)

    with monkeypatch.context() as patch:
        patch.setattr(TwoStages, "step", stop)
        assert run_cli(*options, "--run-dir", tmp_path / "half").exit_code == 130
    resumed = summary(run_cli("w2gn", "domain", "--resume", tmp_path / "half", "--json"))
    assert resumed["final"] == whole["final"]


def test_latent_on_digits_and_a_loaded_autoencoder(run_cli: RunCli, tmp_path: Path) -> None:
    shared = ("--latent", "4", "--filters", "8", "--steps", "20")
    result = summary(
        run_cli(
            "w2gn",
            "latent",
            *SMALL,
            *shared,
            "--autoencoder-steps",
            "40",
            "--run-dir",
            tmp_path / "a",
            "--json",
        )
    )
    assert result["final"]["test/energy_forward"] <= result["final"]["test/energy_before"]
    assert (tmp_path / "a" / "figures" / "samples.png").is_file()
    weights = tmp_path / "a" / "autoencoder.pt"
    loaded = ("--autoencoder", weights, "--run-dir", tmp_path / "b", "--json")
    again = summary(run_cli("w2gn", "latent", *SMALL, *shared, *loaded))
    assert again["final"]["test/reconstruction"] == pytest.approx(
        result["final"]["test/reconstruction"], rel=1e-5
    )
    other = run_cli("w2gn", "latent", *SMALL, "--latent", "5", "--filters", "8", "--autoencoder", weights)
    assert other.exit_code == 2
    assert "another architecture" in other.stderr


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


def test_style_warns_of_hours(run_cli: RunCli, tmp_path: Path) -> None:
    # At the published size one step on a processor takes seconds; the estimate comes before the first.
    result = run_cli(
        "w2gn", "style", "--image-size", "96", "--width", "4", "--patches", "16", "--steps", "1", "--batch-size", "2",
        "--run-dir", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "a GPU is advised" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("toy", "--target", "9gaussians"), "is not one of"),
        (("toy", "--target", "absent.npy"), "no file absent.npy"),
        (("toy", "--lambda", "0"), "--lambda: 0.0 is out of range, expected above 0"),
        (("toy", "--lambda", "-3"), "expected above 0"),
        (("toy", "--betas", "0.9"), "expected two numbers"),
        (("color", "one.png"), "Two photographs are needed"),
        (("domain", "--source", "mnist", "--target", "mnist"), "nothing to adapt"),
        (("latent", "--image-size", "20"), "8, 16, 32, 64"),
        (("benchmark", "--pairs", "absent.npz"), "no benchmark pair at absent.npz"),
        (("style", "--images", "absent"), "There is no folder"),
        (("apply", "absent.safetensors", "x.npy"), "no file of weights"),
        (("apply", "absent.safetensors", "x.npy", "--refine", "newton"), "--inverse"),
    ],
)
def test_bad_requests_get_one_sentence(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("w2gn", *arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_clouds_of_different_dimension(run_cli: RunCli, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 2)))
    np.save(tmp_path / "b.npy", np.zeros((10, 3)))
    result = run_cli("w2gn", "toy", "--source", tmp_path / "a.npy", "--target", tmp_path / "b.npy")
    assert result.exit_code == 2
    assert "same dimension" in " ".join(result.stderr.split())


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


def test_a_diverging_run_stops_and_keeps_its_last_good_state(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasskit.plugins.w2gn.task import TransportTask

    plain = TransportTask.step

    def poisoned(self: TransportTask, batch: Any, stepper: Any) -> Any:
        if stepper.progress.step == 15:
            with torch.no_grad():
                next(self.transport.parameters()).fill_(float("nan"))
        return plain(self, batch, stepper)

    monkeypatch.setattr(TransportTask, "step", poisoned)
    options = ("--steps", "30", "--eval-every", "10", "--test-size", "200", "--run-dir", tmp_path / "run")
    result = run_cli("w2gn", "toy", *SMALL, *options)
    assert result.exit_code == 1
    assert "last good checkpoint" in " ".join(result.stderr.split())
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert content["state"]["step"] == 10
