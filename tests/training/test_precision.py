"""``--precision`` on the command line: what computes in it, what does not, and how a run in it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.trust.commands import TRAININGS
from wasskit.cli import run
from wasskit.training.checkpoint import load_checkpoint
from wasskit.training.loop import Loop

pytestmark = pytest.mark.usefixtures("undrawn")

BY_NAME = {training.name: training for training in TRAININGS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mrl-train", "mrl-adapt", "ssl-byol", "metrix-contrastive-baseline", "w2gn-latent", "w2gn-domain"]
)
def test_evaluation_during_training_is_in_the_precision_of_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[set[torch.dtype]] = []
    within = False
    plain: Callable[..., Any] = Loop._evaluate

    def evaluate(self: Loop) -> bool:
        nonlocal within
        within = True
        kinds.append(set())
        try:
            return bool(plain(self))
        finally:
            within = False

    def note(module: nn.Module, given: Any, found: Any) -> None:
        if within and isinstance(module, nn.Linear | nn.Conv2d):
            kinds[-1].add(found.dtype)

    monkeypatch.setattr(Loop, "_evaluate", evaluate)
    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        assert run([*BY_NAME[name].on(tmp_path / "run"), "--precision", "bf16"]) == 0
    finally:
        hook.remove()
    assert kinds[0] == {torch.bfloat16}


def photographs(folder: Path) -> None:
    """Two classes of twelve images, 8 x 8 pixels."""
    generator = np.random.default_rng(0)
    for i in range(24):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{i}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mrl-train", "ssl-byol-w2", "w2gn-toy"])
def test_fp16_resumes_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after some steps and resumed: networks, optimisers and the scaler as without the stop."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = BY_NAME[name]
    words = zip(["", *training.argv], training.argv, strict=False)
    shorter = {"--epochs": "2", "--batch-size": "8"}
    argv = [*(shorter.get(before, word) for before, word in words), "--precision", "fp16"]
    if not name.startswith("w2gn"):
        # Small images, and few: convolutions in half precision take processors a hundred times as long.
        photographs(tmp_path / "photos")
        photos = ("--dataset", "imagefolder", "--data-root", str(tmp_path / "photos"), "--image-size", "8")
        argv += [*photos, "--workers", "0"]
    assert run([*argv, "--run-dir", str(whole)]) == 0

    plain: Callable[..., Any] = Loop._save

    def stop(self: Loop, *, best: bool = False) -> None:
        plain(self, best=best)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_save", stop)
        assert run([*argv, "--run-dir", str(parts)]) == 130
    assert run([*argv, "--run-dir", str(parts), "--resume"]) == 0
    expected, found = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (whole, parts))
    assert expected["scaler"]["scale"] > 0
    for key in ("task", "optimisers", "scaler"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
