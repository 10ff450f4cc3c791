"""``--precision`` on the command line: what computes in it, what does not, and how a run in it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trust.commands import TRAININGS
from wasskit.cli import run
from wasskit.training.loop import Loop

BY_NAME = {training.name: training for training in TRAININGS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mrl-train", "mrl-adapt", "ssl-byol", "metrix-contrastive-baseline", "w2gn-latent", "w2gn-domain"],
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
