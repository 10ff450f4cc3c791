"""Trainings of `wasskit w2gn` that are stopped and go on, and those that diverge."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wasskit.plugins.w2gn.core.stages import TwoStages
from wasskit.plugins.w2gn.core.task import TransportTask
from wasskit.plugins.w2gn.maps import load_map

pytestmark = pytest.mark.usefixtures("undrawn")

RunCli = Callable[..., Any]
SMALL = ("--hidden", "16,8", "--batch-size", "64", "--device", "cpu", "--eval-every", "20")


def summary(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


# What training ends with is compared: the Gaussian start, where that is kept, is the same in any case.
END = ("--keep", "end")
CLOUD = ("--eval-every", "4", "--steps", "12", "--test-size", "200", *END)
NEWTON = ("--gauss-newton-steps", "4", "--gauss-newton-points", "1024")
STAGED = ("--eval-every", "10", "--steps", "12", *END)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "stop_at"),
    [
        (("toy", *SMALL, *CLOUD, "--target", "moons"), 8),
        (("fit", *SMALL, *STAGED, "--discrete-rows", "64"), 8),
        (("fit", *SMALL, "--eval-every", "4", "--steps", "12", "--lr", "0.01", "--discrete-rows", "64"), 8),
        (("toy", *SMALL, *CLOUD, "--start", "pretrain", "--pretrain-steps", "6", "--refine", "none"), 4),
        (("toy", *SMALL, *CLOUD, "--dropout", "0.1", "--sampling", "random"), 9),
        (("gaussians", "--dim", "3", *SMALL, *CLOUD), 8),
        (("gaussians", "--dim", "3", *SMALL, *CLOUD, *NEWTON), 13),
        (("gaussians", "--dim", "3", *SMALL, *CLOUD, "--members", "2", "--apart", "0.5"), 5),
        (("gaussians", "--dim", "3", *SMALL, *CLOUD, "--members", "2", "--apart", "0.5"), 8),
        (("color", *SMALL, *CLOUD, "--smooth", "0"), 10),
        (("style", *STAGED, "--image-size", "8", "--width", "2", "--patches", "32", "--batch-size", "4"), 7),
        (("domain", *SMALL, *STAGED, "--classifier-steps", "20"), 15),
        (("domain", *SMALL, *STAGED, "--classifier-steps", "20"), 27),
        (("latent", *SMALL, *STAGED, "--autoencoder-steps", "20", "--latent", "4", "--filters", "4"), 15),
        (("latent", *SMALL, *STAGED, "--autoencoder-steps", "20", "--latent", "4", "--filters", "4"), 27),
    ],
    ids=lambda value: "-".join(value[:1]) if isinstance(value, tuple) else str(value),
)
def test_stopped_and_resumed_equals_one_run(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], stop_at: int
) -> None:
    whole = summary(run_cli("w2gn", *options, "--run-dir", tmp_path / "whole", "--json"))
    after_update = TransportTask.after_update if options[0] not in ("domain", "latent") else TwoStages.after_update
    owner = TransportTask if options[0] not in ("domain", "latent") else TwoStages

    def stop(self: Any, progress: Any) -> None:
        after_update(self, progress)
        if progress.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(owner, "after_update", stop)
        assert run_cli("w2gn", *options, "--run-dir", tmp_path / "half").exit_code == 130
    assert not (tmp_path / "half" / "map.safetensors").exists()
    resumed = summary(run_cli("w2gn", options[0], "--resume", tmp_path / "half", "--json"))
    assert resumed["final"] == whole["final"]
    maps = [load_map(tmp_path / name / "map.safetensors")[0].state_dict() for name in ("whole", "half")]
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


@pytest.mark.slow
def test_a_series_stopped_in_its_second_dimension_goes_on(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("w2gn", "gaussians", "--dim", "2,3,4", *SMALL, *CLOUD)
    whole = summary(run_cli(*options, "--run-dir", tmp_path / "whole", "--json"))
    after_update, starts = TransportTask.after_update, []

    def stop(self: Any, progress: Any) -> None:
        after_update(self, progress)
        starts.extend([progress.step] * (progress.step == 0))
        if len(starts) == 2 and progress.step == 8:
            os.kill(os.getpid(), signal.SIGINT)

    half = tmp_path / "half"
    with monkeypatch.context() as patch:
        patch.setattr(TransportTask, "after_update", stop)
        assert run_cli(*options, "--run-dir", half).exit_code == 130
    assert (half / "d2" / "summary.json").is_file()
    assert not (half / "d4").exists()
    refused = run_cli("w2gn", "gaussians", "--resume", half, "--dim", "2,3")
    assert refused.exit_code == 2
    assert "--dim" in refused.stderr
    resumed = summary(run_cli("w2gn", "gaussians", "--resume", half, "--json"))
    for dim in ("2", "3", "4"):
        assert resumed["dimensions"][dim]["scores"] == whole["dimensions"][dim]["scores"]
    assert run_cli("w2gn", "gaussians", "--dim", "2,3", "--run-dir", half).exit_code == 2


@pytest.mark.slow
def test_series_nobody_named_are_numbered(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("w2gn", "gaussians", "--dim", "2,3", *SMALL, "--steps", "2", "--test-size", "100")
    refused = run_cli("w2gn", "gaussians", "--resume")
    assert refused.exit_code == 2
    assert "nothing to resume" in refused.stderr
    for _ in range(2):
        assert run_cli(*options).exit_code == 0
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("runs/w2gn/*/d*"))
    assert names == [f"runs/w2gn/{name}/d{dim}" for name in ("gaussians-2", "gaussians") for dim in (2, 3)]


def test_a_diverging_run_stops_and_keeps_its_last_good_state(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
