"""Embeddings of a trained run, for whoever measures them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wasskit.distributed.group import group
from wasskit.evaluation.embedding import extract_features
from wasskit.plugins.metrix.data import eval_loader, parts_of_model
from wasskit.plugins.metrix.network import load_model
from wasskit.training.trained import data_root_of


def test_embeddings(run: Path, device: str) -> Tensor:
    """Unit embeddings (N, m) float32 of the test images, whose classes the model has not seen.

    Raises ``UserError`` where the model or its data set is missing.
    """
    with group(device) as place:
        model = load_model(run, place)
        parts = parts_of_model(
            model.description, dataset=None, root=data_root_of(run, plugin="metrix"), corrupt="refuse"
        )
        loader = eval_loader(parts.test, place, squares=bool(model.description["in_memory"]), batch_size=256)
        try:
            return extract_features(model.network, loader).features.cpu()
        finally:
            loader.close()
