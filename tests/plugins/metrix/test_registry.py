"""A metric loss is one file: declared, it is found by name, mixed in every mode, and an option of the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix import losses
from wasskit.plugins.metrix.losses import loss_names, parse_settings
from wasskit.plugins.metrix.mixers import Mode
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pair_loss import PairLoss
from wasskit.plugins.metrix.pairs import Mixing

DECLARATION = """
import torch
from torch.nn import functional as F

from wasskit.plugins.metrix.pair_loss import PairLoss, Sum
from wasskit.plugins.metrix.pairs import relations


class Linear(PairLoss, name="linear"):
    def __init__(self, push: float = 1.0) -> None:
        super().__init__()
        self.push = push
        self.halves = Sum(torch.neg), Sum(lambda s: push * s)

    def forward(self, embeddings, labels):
        x = F.normalize(embeddings, dim=1)
        masks = relations(labels, labels, own=True)
        return sum(half.of_matrix(x @ x.T, mask).sum() for half, mask in zip(self.halves, masks)) / len(x)
"""


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> type[PairLoss]:
    monkeypatch.setattr(losses, "declared", dict(losses.declared))
    names: dict[str, type[PairLoss]] = {}
    exec(DECLARATION, names)
    return names["Linear"]


@pytest.mark.parametrize("mode", ["baseline", "input", "feature", "embed"])
def test_a_declared_loss_is_mixed_in_every_mode(linear: type[PairLoss], mode: Mode) -> None:
    assert set(loss_names()) >= {"contrastive", "linear", "multisimilarity", "potentialfield", "proxyanchor"}
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(6, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    leaf, labels = x, torch.tensor([0, 0, 1, 1, 2, 2])
    objective = MetrixLoss("linear", mode, hardest=9, settings={"push": 2.0})
    assert isinstance(objective.clean, linear)

    def same(images: Tensor) -> Tensor:
        return images

    # The sum of average and maximum of a single position is twice its value.
    terms = objective(
        x, labels, mixing=Mixing(0.25, "positive-negative"), maps=x[:, :, None, None] / 2, head=same, images=x,
        network=same,
    )  # fmt: skip
    clean = mixed = 0.0
    x = x.detach()
    for a in range(6):
        for i in range(6):
            if i != a:
                s = float(x[a] @ x[i])
                clean += (-s if labels[i] == labels[a] else 2 * s) / 6
            for n in range(6):
                if i != a and labels[i] == labels[a] and labels[n] != labels[a]:
                    s = float(F.cosine_similarity(x[a], 0.25 * x[i] + 0.75 * x[n], dim=0))
                    mixed += (-0.25 * s + 0.75 * 2 * s) / 6
    assert terms.clean.item() == pytest.approx(clean, rel=1e-10)
    if mode != "baseline":
        assert terms.mixed.item() == pytest.approx(mixed, rel=1e-10)
        assert torch.autograd.grad(terms.total, leaf)[0].isfinite().all()


@pytest.mark.slow
def test_a_file_is_all_that_the_command_needs(tmp_path: Path) -> None:
    (tmp_path / "linear.py").write_text(DECLARATION, encoding="utf-8")
    script = (
        "import sys, wasskit.plugins.metrix.losses as losses\n"
        "losses.__path__.append(sys.argv[1])\n"
        "from wasskit.cli import run\n"
        "sys.exit(run(sys.argv[2:]))\n"
    )
    argv = [
        "metrix", "train", "--loss", "linear", "--loss-settings", "push=0.5", "--mode", "embed", "--epochs", "1",
        "--batch-size", "60", "--max-triples", "50", "--embedding-size", "4", "--compare", "no", "--no-tensorboard",
        "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *argv], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["final"]["test/recall@1"] > 0


def test_settings_are_read_from_words() -> None:
    assert parse_settings(["decay=4", " radius = 0.2", "n=-1"]) == {"decay": 4, "radius": 0.2, "n": -1}
    for word in ("decay", "decay=", "decay=high"):
        with pytest.raises(ValueError, match=f"a setting is written name=number, not '{word}'"):
            parse_settings([word])
