"""Pretrained models as they are found on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from wasskit.config import build
from wasskit.errors import UserError
from wasskit.models.rebuild import are_counts, are_numbers, is_text
from wasskit.plugins.ssl.network import Description, SslModel, build_encoder, views_of
from wasskit.plugins.ssl.options import EvaluationOptions
from wasskit.trained.kind import ModelKind


def are_views(stored: Any) -> bool:
    """Whether a description's ``views`` are a distribution of views."""
    if not isinstance(stored, Mapping):
        return False
    try:
        views = views_of({"views": stored})
    except (TypeError, ValueError, UserError):
        return False
    bounds = (views.scale, views.ratio, views.sigma)
    if not all(are_numbers(pair, 2) for pair in bounds):
        return False
    numbers = [value for key, value in asdict(views).items() if key not in ("scale", "ratio", "sigma")]
    return are_numbers(numbers, len(numbers)) and min(*numbers, *(low for low, _ in bounds)) >= 0


def embedder(model: SslModel, *, what: Literal["features", "projections"] = "features") -> nn.Module:
    """The network of the backbone's features, or of the projector's projections."""
    return model.encoder.backbone if what == "features" else model.encoder


KIND = ModelKind(
    name="ssl",
    build=lambda description: SslModel(build_encoder(description), cast(Description, description)),
    weights=lambda model: model.encoder,
    embedder=embedder,
    prefix="encoder.",
    rules={"method": is_text, "projector": are_counts, "views": are_views},
)


def test_embeddings(run: Path, device: str) -> Tensor:
    """Projections (N, m) float32 of the test images, on which the published W2 and L_U are measured.

    Raises ``UserError`` where the model or its data set is missing.
    """
    from wasskit.plugins.ssl.evaluation import bank_and_test, features_and_projections
    from wasskit.plugins.ssl.measure import evaluation_of

    with evaluation_of(build(EvaluationOptions, {"model": run, "device": device})) as setup:
        _, test = bank_and_test(setup.split)
        return features_and_projections(setup.model.encoder, test, setup.settings)[1].cpu()
