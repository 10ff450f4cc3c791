"""Embeddings of a trained run, for whoever measures them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wasskit.distributed.group import group
from wasskit.plugins.mrl.options import ModelDataOptions
from wasskit.plugins.mrl.trained import embed_split, load_model, open_split


def test_embeddings(run: Path, device: str) -> Tensor:
    """Normalised embeddings (N, m) float32 of the test images, at the largest dimension.

    Raises ``UserError`` where the model or its data set is missing.
    """
    config = ModelDataOptions(model=run, device=device)
    with group(device) as place:
        model = load_model(run, place)
        return embed_split(model, config, open_split(model, config, config.split), place).features.cpu()
