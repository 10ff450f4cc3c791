"""Run directories as the trainer leaves them, made up from formulas."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

DIMS = (8, 16, 32, 64)
STEPS_PER_EPOCH = 10


def make_run(
    path: Path,
    *,
    command: str = "mrl train",
    epochs: int = 5,
    planned: int | None = None,
    seed: int = 0,
    lift: float = 0.0,
    paper: Mapping[str, Any] | None = None,
    finished: bool = True,
    **options: Any,
) -> Path:
    """A run of ``epochs`` epochs with a loss, top-1 and top-1 at four dimensions.

    ``test/top1`` at epoch e is 80 + 10 (1 - 2^-e) + lift + seed, and at dimension d lower by 8 / d.
    """
    path.mkdir(parents=True)
    everything = {"dataset": "digits", "epochs": planned or epochs, "lr": 0.1, "seed": seed, "device": "cpu", **options}
    document: dict[str, Any] = {"command": command, "options": everything}
    if paper is not None:
        document["paper"] = paper
    (path / "config.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    environment = {
        "started": "2024-05-01T10:00:00+00:00",
        "command_line": f"wasskit {command}",
        "seed": seed,
        "versions": {"python": "3.11.2", "torch": "2.4.0"},
        "device": {"type": "cpu", "name": "x86_64", "ranks": 1},
    }
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    rows: list[Sequence[Any]] = []
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * STEPS_PER_EPOCH + 5, epoch * STEPS_PER_EPOCH + 1, 5):
            rows.append((epoch - 1, step, "train", "loss", 2.0 * math.exp(-step / 20) + 0.01 * seed))
        top1 = top1_at(epoch, seed, lift)
        rows.append((epoch, epoch * STEPS_PER_EPOCH, "test", "top1", top1))
        rows += [(epoch, epoch * STEPS_PER_EPOCH, "test", f"top1@{d}", top1 - 8 / d) for d in DIMS]
    write_metrics(path / "metrics.csv", rows)
    if finished:
        last = {f"{row[2]}/{row[3]}": row[4] for row in rows if row[2] == "test"}
        summary = {
            "command": command, "steps": epochs * STEPS_PER_EPOCH, "epochs": float(epochs), "final": last,
            "best": {
                "metric": "test/top1", "value": last["test/top1"], "step": epochs * STEPS_PER_EPOCH, "epoch": epochs,
                "metrics": last,
            },
            "wall_seconds": 12.5, "samples_per_second": 800.0, "waiting_share": 0.02,
        }  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return path


def top1_at(epoch: int, seed: int = 0, lift: float = 0.0) -> float:
    return 80 + 10 * (1 - 2.0**-epoch) + lift + seed


def write_metrics(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("epoch", "step", "split", "metric", "value"))
        writer.writerows(rows)
