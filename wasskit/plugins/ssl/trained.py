"""Pretrained models as they are found on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, cast

from torch import nn

from wasskit.errors import UserError
from wasskit.models.rebuild import are_counts, are_numbers, is_text
from wasskit.plugins.ssl.network import Description, SslModel, build_encoder, views_of
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
