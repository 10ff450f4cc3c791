"""Heads: layers as their papers count them, unit embeddings, pooling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wasskit.models.heads import MLP, AverageMaxPool, LinearEmbedding


def test_the_projector_has_its_papers_layers() -> None:
    projector = MLP((512, 2048, 2048, 256))
    kinds = [type(layer).__name__ for layer in projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    linear = (layer for layer in projector if isinstance(layer, nn.Linear))
    biases = ["bias" in dict(layer.named_parameters()) for layer in linear]
    assert biases == [False, False, True]
    assert projector(torch.randn(4, 512)).shape == (4, 256)


def test_options_of_the_last_layer() -> None:
    last = list(MLP((8, 4, 2), last_batch_norm=True))[-2:]
    assert [type(layer) for layer in last] == [nn.Linear, nn.BatchNorm1d]
    assert "bias" not in dict(last[0].named_parameters())
    plain = MLP((8, 4, 2), batch_norm=False, last_bias=False)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 8 * 4 + 4 + 4 * 2
    with pytest.raises(ValueError, match="input and its output"):
        MLP((8,))


def test_embeddings_have_unit_length_unless_asked_otherwise() -> None:
    features = torch.randn(5, 16)
    torch.testing.assert_close(LinearEmbedding(16, 8)(features).norm(dim=1), torch.ones(5))
    raw = LinearEmbedding(16, 2000, normalise=False, kaiming=True)
    assert torch.equal(raw(features), features @ raw.weight.T)
    assert float(raw.weight.detach().var()) == pytest.approx(2 / 2000, rel=0.05)


def test_average_plus_maximum() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert AverageMaxPool()(maps).tolist() == [[9.0]]
