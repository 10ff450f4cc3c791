from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.plugins.metrix.pairs import (
    Triples,
    all_negatives,
    anchor_negative,
    hardest_negatives,
    join,
    positive_negative,
    relations,
    subsample,
    unique_pairs,
)
from wasskit.plugins.metrix.published import first_positives, hardest_as_published

Reference = Callable[[str], dict[str, Any]]
BATCHES = ["mixed24", "balanced20", "mixed36", "single12"]


def stacked(triples: Triples) -> Tensor:
    return torch.stack([triples.anchor, triples.x, triples.n])


def cosines(x: Tensor) -> Tensor:
    x = torch.nn.functional.normalize(x, dim=1)
    return x @ x.T


@pytest.mark.parametrize("batch", BATCHES)
def test_lists_of_the_paper(reference: Reference, batch: str) -> None:
    numbers = {name: torch.from_numpy(value) for name, value in reference(f"metrix_pairs_{batch}").items()}
    labels = numbers["labels"]
    positive, negative = relations(labels, labels, own=True)
    assert torch.equal(positive.nonzero().T, torch.stack([numbers["all_a1"], numbers["all_p"]]))
    assert torch.equal(negative.nonzero().T, torch.stack([numbers["all_a2"], numbers["all_n"]]))
    everything = all_negatives(negative)
    assert torch.equal(stacked(positive_negative(positive, everything)), numbers["fix_pn_idx"])
    pairs = anchor_negative(torch.arange(len(labels)), everything)
    assert torch.equal(stacked(pairs)[[0, 2]], numbers["fix_an_all_idx"])
    assert torch.equal(pairs.anchor, pairs.x)
    hardest = hardest_negatives(negative, cosines(numbers["embeddings"]), 1)
    assert torch.equal(stacked(positive_negative(positive, hardest)), numbers["fix_hard_pn_idx"])


@pytest.mark.parametrize("batch", BATCHES)
def test_lists_of_the_published_code(reference: Reference, batch: str) -> None:
    numbers = {name: torch.from_numpy(value) for name, value in reference(f"metrix_pairs_{batch}").items()}
    labels = numbers["labels"]

    def published(key: str) -> Tensor:
        middle = "pos" if f"{key}_l0_pos" in numbers else "anc"
        return torch.stack([numbers[f"{key}_l0_{name}"] for name in ("anc", middle, "neg")])

    positive, negative = relations(labels, labels, own=True)
    lists = first_positives(positive, all_negatives(negative))
    assert torch.equal(stacked(lists), published("embed_pn"))
    similarity = cosines(numbers["embeddings"])
    for key, k in (("input_pn", 1), ("input_pn_top3", 3)):
        wrong = hardest_as_published(hardest_negatives(negative, similarity, k), negative)
        assert torch.equal(stacked(positive_negative(positive, wrong)), published(key))
    alone = negative & ~positive.any(1, keepdim=True)
    if alone.any():
        lists = anchor_negative(torch.arange(len(labels)), all_negatives(alone))
        assert torch.equal(stacked(lists), published("embed_an"))
        wrong = hardest_as_published(hardest_negatives(alone, similarity, 1), alone)
        lists = anchor_negative(torch.arange(len(labels)), wrong)
        assert torch.equal(stacked(lists), published("input_an"))


def test_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(7, (31,), generator=generator)
    similarity = cosines(torch.randn(31, 4, generator=generator))
    positive, negative = relations(labels, labels, own=True)
    for k in (None, 1, 4, 100):
        negatives = all_negatives(negative) if k is None else hardest_negatives(negative, similarity, k)
        expected = []
        for a in range(31):
            wrong = [n for n in range(31) if labels[n] != labels[a]]
            if k is not None:
                wrong = sorted(wrong, key=lambda n: -float(similarity[a, n]))[:k]
            expected += [(a, p, n) for p in range(31) if p != a and labels[p] == labels[a] for n in wrong]
        assert stacked(positive_negative(positive, negatives)).T.tolist() == [list(t) for t in expected]


def test_proxies_are_anchors() -> None:
    labels = torch.tensor([4, 2, 4, 9])
    proxies = labels.unique()
    positive, negative = relations(proxies, labels, own=False)
    triples = positive_negative(positive, all_negatives(negative))
    assert stacked(triples).T.tolist() == [
        [0, 1, 0], [0, 1, 2], [0, 1, 3],
        [1, 0, 1], [1, 0, 3], [1, 2, 1], [1, 2, 3],
        [2, 3, 0], [2, 3, 1], [2, 3, 2],
    ]  # fmt: skip


def test_nothing_to_mix() -> None:
    for labels in (torch.zeros(5, dtype=torch.int64), torch.arange(5), torch.tensor([3])):
        positive, negative = relations(labels, labels, own=True)
        assert len(positive_negative(positive, all_negatives(negative))) == 0
        hard = hardest_negatives(negative, torch.zeros(len(labels), len(labels)), 2)
        assert len(positive_negative(positive, hard)) == 0
    empty = torch.empty(0, dtype=torch.int64)
    triples = join(empty, empty, all_negatives(torch.zeros(3, 3, dtype=torch.bool)))
    assert len(triples) == 0
    assert all(len(part) == 0 for part in unique_pairs(triples, 3))


def test_unique_pairs_lead_back_to_the_triples() -> None:
    labels = torch.arange(6).repeat_interleave(4)
    positive, negative = relations(labels, labels, own=True)
    triples = positive_negative(positive, all_negatives(negative))
    x, n, pair = unique_pairs(triples, len(labels))
    assert torch.equal(x[pair], triples.x)
    assert torch.equal(n[pair], triples.n)
    assert len(x) == len(set(zip(x.tolist(), n.tolist(), strict=True))) == 24 * 20


def test_subsample() -> None:
    labels = torch.arange(6).repeat_interleave(4)
    positive, negative = relations(labels, labels, own=True)
    triples = positive_negative(positive, all_negatives(negative))
    some = subsample(triples, 100, np.random.default_rng(0))
    assert len(some) == 100
    assert torch.all(some.anchor.diff() >= 0)
    rows = {tuple(row) for row in stacked(triples).T.tolist()}
    chosen = [tuple(row) for row in stacked(some).T.tolist()]
    assert len(set(chosen)) == 100
    assert rows.issuperset(chosen)
    assert subsample(triples, 10**6, np.random.default_rng(0)) is triples
    # Every triple is as likely as any other: its count over 400 draws of 100 in 1440 has mean 27.8, deviation 5.1.
    counts = torch.zeros(24)
    rng = np.random.default_rng(1)
    for _ in range(400):
        counts += subsample(triples, 100, rng).anchor.bincount(minlength=24)
    assert (counts - 400 * 100 / 24).abs().max() < 6 * (400 * 100 / 24) ** 0.5
