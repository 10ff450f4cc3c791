"""The network, its description, and trained models from disk."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wasskit.errors import UserError
from wasskit.plugins.mrl.network import MatryoshkaNetwork, PrefixEmbedder, build_model
from wasskit.plugins.mrl.options import default_dims

DESCRIPTION: dict[str, Any] = {
    "kind": "mrl",
    "backbone": "tiny",
    "stem": "auto",
    "embedding": "linear",
    "dims": [2, 8, 32],
    "tied": False,
    "dataset": "digits",
    "classes": [str(c) for c in range(10)],
    "image_size": 8,
    "channels": 1,
    "mean": [0.3],
    "std": [0.4],
}


def test_default_dimensions_halve_the_width() -> None:
    assert default_dims(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert default_dims(256) == (2, 4, 8, 16, 32, 64, 128, 256)
    assert default_dims(512)[0] == 2
    assert default_dims(768)[-2:] == (384, 768)
    assert default_dims(3) == (3,)


def test_the_description_rebuilds_the_model() -> None:
    model = build_model(DESCRIPTION)
    again = build_model(model.description)
    again.network.load_state_dict(model.network.state_dict())
    again.objective.load_state_dict(model.objective.state_dict())
    images = torch.randn(3, 1, 8, 8)
    for one in (model, again):
        one.network.eval()
    torch.testing.assert_close(model.network(images), again.network(images), rtol=0, atol=0)
    assert model.dims == (2, 8, 32)
    assert model.classes[3] == "3"
    assert build_model({**DESCRIPTION, "dims": None}).dims == default_dims(256)


def test_embeddings_wider_than_the_features_are_refused() -> None:
    with pytest.raises(UserError, match="512 is larger than the embedding, which has the backbone's 256"):
        build_model({**DESCRIPTION, "dims": [8, 512]})
    with pytest.raises(UserError, match="must be the backbone's 256, not 32"):
        build_model({**DESCRIPTION, "embedding": "identity"})
    identity = build_model({**DESCRIPTION, "dims": [256], "embedding": "identity"})
    assert not list(identity.network.embedding.parameters())


def test_the_prefix_embedder_cuts_the_unit_embedding() -> None:
    torch.manual_seed(0)
    network = MatryoshkaNetwork(torch.nn.Flatten(), 12, 6)
    images = torch.randn(5, 3, 2, 2)
    whole = network.normalised(images)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
    prefix = PrefixEmbedder(network, 4)(images)
    torch.testing.assert_close(prefix, whole[:, :4])
    unit = PrefixEmbedder(network, 4, unit=True)(images)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(prefix, dim=1))
