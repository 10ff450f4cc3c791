"""Options under the names they had: command lines, recipes, saved runs and checkpoints of earlier versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasskit.cli import find_command
from wasskit.config import check_keys, current_names
from wasskit.errors import UserError
from wasskit.system.documents import read_toml

pytestmark = pytest.mark.usefixtures("undrawn")

FORMER = [
    ("ssl byol", ["--crop-min", "0.3"], {"crop_min": 0.3}, "min_crop", 0.3),
    ("ssl byol", ["--batch-norm", "local"], {"batch_norm": "local"}, "sync_bn", False),
    ("ssl byol", ["--batch-norm", "sync"], {"batch_norm": "sync"}, "sync_bn", True),
    ("study icc", ["--seeds", "5"], {"seeds": 5}, "repetitions", 5),
    ("study icc", ["--pairs", "2000000"], {"pairs": 2_000_000}, "lu_pairs", 2_000_000),
    ("w2gn toy", ["--lambda", "2"], {"lambda": 2}, "cycle", 2.0),
]


@pytest.mark.parametrize(("command", "line", "keys", "name", "value"), FORMER)
def test_former_names_mean_the_present_option(
    command: str,
    line: list[str],
    keys: dict[str, Any],
    name: str,
    value: Any,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., Any],
) -> None:
    declared = find_command(command)
    assert check_keys(declared.options, keys, "a recipe") == {name: value}
    assert current_names(declared.options, keys) == {name: value} | ({} if name != "cycle" else {"cycle": 2})
    seen: list[Any] = []

    def resolve(options: Any, path: str, given: Any) -> None:
        seen.append(given)
        raise UserError("that is enough.")

    monkeypatch.setattr("wasskit.config.command.resolve", resolve)
    result = run_cli(*command.split(), *line)
    assert result.exit_code == 2, result.stderr
    assert list(seen[0]) == [name]
    assert line[0] not in run_cli(*command.split(), "--help").stdout.split() or name == "cycle"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ssl", "byol", "--crop-min", "2"], "--min-crop: 2.0 is out of range"),
        (["ssl", "byol", "--batch-norm", "both"], "--batch-norm: 'both' is not one of sync, local."),
        (["ssl", "byol", "--crop-min", ".1", "--min-crop", ".1"], "--crop-min is the former name of --min-crop"),
    ],
)
def test_former_names_are_checked(
    run_cli: Callable[..., Any], words: Callable[[str], str], argv: list[str], message: str
) -> None:
    result = run_cli(*argv)
    assert (result.exit_code, message in words(result.stderr)) == (2, True), result.stderr


SMALL = ["--epochs", "2", "--batch-size", "512", "--projector", "16,8", "--eval-every", "2", "--no-tensorboard", "-q"]


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    run = tmp_path / "run"
    assert run_cli("ssl", "byol", *SMALL, "--no-sync-bn", "--min-crop", "0.4", "--run-dir", run).exit_code == 0
    # As the earlier version wrote it: configuration and checkpoint under the former names.
    config = run / "config.toml"
    text = config.read_text().replace("sync_bn = false", 'batch_norm = "local"').replace("min_crop", "crop_min")
    assert "crop_min = 0.4" in text
    assert 'batch_norm = "local"' in text
    config.write_text(text)
    for path in run.glob("checkpoints/*.pt"):
        state = torch.load(path, weights_only=True)
        saved = state["config"]
        saved["batch_norm"] = {True: "sync", False: "local"}[saved.pop("sync_bn")]
        saved["crop_min"] = saved.pop("min_crop")
        path.unlink()
        torch.save(state, path)
    (run / "summary.json").unlink()
    resumed = run_cli("ssl", "byol", "-q", "--resume", run)
    assert resumed.exit_code == 0, resumed.stderr
    assert (run / "summary.json").is_file()
    other = run_cli("ssl", "byol", "-q", "--resume", run, "--batch-norm", "sync")
    assert other.exit_code == 2
    assert "--sync-bn True (the run has False)" in other.stderr
    assert read_toml(config)["options"]["crop_min"] == 0.4
