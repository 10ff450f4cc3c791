"""Embeddings of a pretrained run, for whoever measures them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wasskit.plugins.ssl.evaluation import bank_and_test, features_and_projections
from wasskit.plugins.ssl.measure import measuring
from wasskit.plugins.ssl.options import MeasureOptions


def test_embeddings(run: Path, device: str) -> Tensor:
    """Projections (N, m) float32 of the test images, on which the published W2 and L_U are measured.

    Raises ``UserError`` where the model or its data set is missing.
    """
    with measuring(MeasureOptions(run=run, device=device)) as measurement:
        _, test = bank_and_test(measurement.split)
        return features_and_projections(measurement.model.encoder, test, measurement.settings)[1].cpu()
