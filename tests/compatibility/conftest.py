"""A backbone of a few hundred parameters, so that the recorded checkpoints are small."""

from __future__ import annotations

from typing import Any

import pytest


def register_nano() -> None:
    """Make the backbone ``nano`` known to timm, through which every version of wasskit takes names it lacks itself."""
    import timm.models
    import torch
    from torch import nn

    if timm.is_model("nano"):
        return

    class Nano(nn.Module):
        num_features = 8

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(channels, 8, 3, 2, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.convolution(x)))

        def forward_head(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.forward_features(x))

    def nano(pretrained: bool = False, in_chans: int = 3, **_: Any) -> nn.Module:
        return Nano(in_chans)

    timm.models.register_model(nano)


@pytest.fixture(scope="session", autouse=True)
def _nano() -> None:
    register_nano()
