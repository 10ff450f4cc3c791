"""Trained models as they are found on disk."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wasskit.data.loaders import EvalLoader
from wasskit.distributed.group import group
from wasskit.evaluation.embedding import extract_features
from wasskit.models.rebuild import is_count, is_text
from wasskit.plugins.metrix.data import parts_of_model
from wasskit.plugins.metrix.network import build_model
from wasskit.trained.files import data_root_of
from wasskit.trained.kind import ModelKind

KIND = ModelKind(
    name="metrix",
    build=build_model,
    weights=lambda model: model.network,
    embedder=lambda model: model.network,
    prefix="network.",
    rules={"pooling": is_text, "embedding_size": is_count},
)


def test_embeddings(run: Path, device: str) -> Tensor:
    """Unit embeddings (N, m) float32 of the test images, whose classes the model has not seen.

    Raises ``UserError`` where the model or its data set is missing.
    """
    with group(device) as place:
        model = KIND.load(run, place)
        parts = parts_of_model(
            model.description, dataset=None, root=data_root_of(run, plugin=KIND.name), corrupt="refuse"
        )
        loader = EvalLoader(parts.test, device=place)
        try:
            return extract_features(model.network, loader).features.cpu()
        finally:
            loader.close()
