from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.mixers.base import pair_cosines
from wasskit.plugins.metrix.mixers.embed import embedding_cosines
from wasskit.plugins.metrix.mixers.feature import feature_embeddings, mixed_maximum
from wasskit.plugins.metrix.pairs import (
    KINDS,
    Kind,
    Mixing,
    Triples,
    all_negatives,
    anchor_negative,
    draw_mixing,
    positive_negative,
    relations,
)

Reference = Callable[[str], dict[str, Any]]


def batch(seed: int = 0, items: int = 18, dim: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (items,), generator=generator)
    return torch.randn(items, dim, generator=generator, dtype=torch.float64), labels


def every_triple(labels: Tensor, kind: Kind) -> Triples:
    positive, negative = relations(labels, labels, own=True)
    negatives = all_negatives(negative)
    if kind == "positive-negative":
        return positive_negative(positive, negatives)
    return anchor_negative(torch.arange(len(labels)), negatives)


def mixed_directly(anchors: Tensor, x: Tensor, n: Tensor, triples: Triples, lam: float) -> Tensor:
    mixed = lam * x[triples.x] + (1 - lam) * n[triples.n]
    return F.cosine_similarity(anchors[triples.anchor], mixed, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("unit", [True, False])
def test_gram_matrix_gives_every_cosine(kind: Kind, lam: float, unit: bool) -> None:
    items, labels = batch()
    items = (F.normalize(items) if unit else items).requires_grad_()
    triples = every_triple(labels, kind)
    found = embedding_cosines(items, items, triples, Mixing(lam, kind))
    expected = mixed_directly(items, items, items, triples, lam)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, len(found), dtype=found.dtype)
    gradients = [torch.autograd.grad((value * weights).sum(), items)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_proxies_mix_as_anchors(kind: Kind) -> None:
    items, labels = batch(1)
    proxies = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    positive, negative = relations(torch.arange(6), labels, own=False)
    if kind == "positive-negative":
        triples = positive_negative(positive, all_negatives(negative))
        expected = mixed_directly(proxies, items, items, triples, 0.7)
    else:
        triples = anchor_negative(torch.arange(6), all_negatives(negative))
        expected = mixed_directly(proxies, proxies, items, triples, 0.7)
    found = embedding_cosines(proxies, items, triples, Mixing(0.7, kind))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_opposite_items_mix_to_nothing() -> None:
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    triples = Triples(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    cosine = embedding_cosines(items, items, triples, Mixing(0.5, "positive-negative"))
    cosine.sum().backward()
    assert cosine.tolist() == [0.0]
    assert items.grad is not None
    assert items.grad.isfinite().all()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 1500, 10**9])
def test_feature_maps_mix_as_if_stored(few: bool, chunk_bytes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(9, 5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(5, 7).double()
    x, n = torch.cartesian_prod(torch.arange(9), torch.arange(9)).unbind(1)
    if few:
        chosen = torch.randperm(81, generator=generator)[:11]
        x, n = x[chosen], n[chosen]
    found = feature_embeddings(maps, head, x, n, 0.35, chunk_bytes=chunk_bytes)
    mixed = (0.35 * maps[x] + 0.65 * maps[n]).flatten(2)
    expected = head(mixed.mean(2) + mixed.amax(2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    parameters = [maps, *head.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [(1, 1), (5, 6), (1, 30), (30, 10)])
@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_maximum_is_the_first_of_several(window: tuple[int, int], lam: float) -> None:
    generator = torch.Generator().manual_seed(4)
    # Rectified maps are full of equal zeros; steps of 1/4 keep every sum exact.
    maps = torch.randint(-2, 3, (12, window[0] * window[1], 6), generator=generator).clamp(min=0).float()
    few = torch.randint(12, (2, 40), generator=generator)
    every = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
    for x, n in (few, every, every.flip(0), every[:, ::5]):
        values, positions = mixed_maximum(maps, x, n, lam, window)
        # Scanned from the back, so that the first of equals is the last to be kept.
        mixed = lam * maps[x] + (1 - lam) * maps[n]
        best, first = mixed[:, -1], torch.full(mixed[:, 0].shape, mixed.shape[1] - 1)
        for k in range(mixed.shape[1] - 2, -1, -1):
            first = torch.where(mixed[:, k] >= best, k, first)
            best = torch.maximum(best, mixed[:, k])
        assert torch.equal(values, best)
        assert torch.equal(positions.long(), first)


@pytest.mark.parametrize("place", [0, 255, 256, 32_767, 32_768, 35_999])
@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_a_maximum_anywhere_on_a_large_map_has_its_gradient_there(place: int, chunk_bytes: int) -> None:
    maps = torch.zeros(2, 1, 36_000, dtype=torch.float64)
    maps[:, 0, place] = torch.tensor([1.0, 2.0])
    maps = maps.view(2, 1, 180, 200).requires_grad_()
    x, n = torch.tensor([[0, 1], [1, 0]])
    head = torch.nn.Linear(1, 1).double()
    found = feature_embeddings(maps, head, x, n, 0.25, chunk_bytes=chunk_bytes)
    gradients = torch.autograd.grad(found.sum(), [maps, head.weight])
    # The average spreads an equal share over all positions.
    expected = head.weight.detach().expand(2, 36_000) / 36_000
    expected = expected.index_add(1, torch.tensor([place]), head.weight.detach().expand(2, 1))
    torch.testing.assert_close(gradients[0].flatten(1), expected)
    torch.testing.assert_close(gradients[1], torch.tensor([[3.0 + 3.0 / 36_000]], dtype=torch.float64))


def test_memory_does_not_grow_with_the_pairs() -> None:
    """What the graph of the mixed embeddings keeps is one byte per pair and channel, besides the embeddings."""
    maps = torch.randn(20, 64, 7, 7, requires_grad=True)
    head = torch.nn.Linear(64, 4)
    x, n = torch.cartesian_prod(torch.arange(20), torch.arange(20)).unbind(1)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = feature_embeddings(maps, head, x, n, 0.4, chunk_bytes=64 * 4 * 50)
    # Indices and arg-max (which views may share), and the head's weight: no pooled mixture, no mixed map.
    assert sum(kept.values()) <= 400 * 64 + x.nbytes + n.nbytes + head.weight.nbytes
    assert result.shape == (400, 4)


def test_pair_cosines_embed_each_pair_once() -> None:
    items, labels = batch(5)
    triples = every_triple(labels, "positive-negative")
    calls: list[int] = []

    def embed(x: Tensor, n: Tensor) -> Tensor:
        calls.append(len(x))
        return 0.2 * items[x] + 0.8 * items[n]

    found = pair_cosines(embed, items, triples, len(items))
    torch.testing.assert_close(found, mixed_directly(items, items, items, triples, 0.2))
    assert calls == [len(set(zip(triples.x.tolist(), triples.n.tolist(), strict=True)))]
    assert calls[0] < len(triples)


def test_draws_follow_the_beta_law() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_mixing(2.0, rng) for _ in range(4000)]
    lams = np.array([draw.lam for draw in draws])
    # Beta(2, 2): mean 1/2, variance 1/20; four standard errors.
    assert abs(lams.mean() - 0.5) < 4 * (0.05 / 4000) ** 0.5
    assert abs(lams.var() - 0.05) < 0.004
    assert abs(sum(draw.kind == KINDS[0] for draw in draws) - 2000) < 4 * 1000**0.5
    assert draw_mixing(2.0, np.random.default_rng(7)) == draw_mixing(2.0, np.random.default_rng(7))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Mixing(1.2, "anchor-negative")
