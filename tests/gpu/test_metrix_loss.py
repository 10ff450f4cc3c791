"""`MetrixLoss` on a logical CUDA device: with labels in the host's memory nothing is waited for, in any form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.device import Counts, LogicalCuda
from wasskit.plugins.metrix.losses import loss_names
from wasskit.plugins.metrix.mixers import Mode
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pairs import KINDS, Kind, Mixing

FORMS: dict[str, dict[str, Any]] = {
    **{name: {"loss": name} for name in loss_names()},
    "cosine": {"loss": "contrastive", "distance": "cosine"},
    "published": {"loss": "contrastive", "published": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["baseline", "input", "feature", "embed"])
@pytest.mark.parametrize("kind", KINDS)
def test_waits_of_a_step(form: str, mode: Mode, kind: Kind) -> None:
    """One where images are mixed by their similarity, which the host must know; one more for labels of the device."""
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    with LogicalCuda() as device:
        loss = MetrixLoss(mode=mode, num_classes=4, embedding_dim=5, **FORMS[form]).to("cuda")
        maps = torch.rand(6, 5, 2, 2).to("cuda").requires_grad_()

        def network(images: Tensor) -> Tensor:
            return images.mean((2, 3))

        mixing = Mixing(0.3, kind)
        waits = []
        for given in (labels, labels.to("cuda")):
            x = network(maps)
            device.counts = Counts()
            terms = loss(x, given, mixing=mixing, maps=maps, head=lambda pooled: pooled, images=maps, network=network)
            terms.total.backward()
            waits.append(device.counts.waits.total())
        assert device.counts.operations > 0
    assert waits[0] == (mode == "input"), device.counts.waits
    assert waits[1] == waits[0] + (mode != "baseline")
