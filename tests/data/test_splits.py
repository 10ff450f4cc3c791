"""Stratified splits, samplers and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wasskit.data.samplers import ClassBalancedSampler, RandomSampler
from wasskit.data.seeds import derive_seed, sample_seed
from wasskit.data.splits import stratified_split
from wasskit.errors import UserError


def test_each_class_gives_its_share() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 3 + [3])[torch.randperm(84)]
    rest, part = stratified_split(labels, 0.1)
    assert torch.cat([rest, part]).sort().values.tolist() == list(range(84))
    assert torch.bincount(labels[part], minlength=4).tolist() == [5, 3, 1, 0], "a single image stays in the rest"
    again = stratified_split(labels, 0.1)[1]
    assert torch.equal(part, again)
    assert not torch.equal(part, stratified_split(labels, 0.1, seed=1)[1])


def test_no_class_is_emptied() -> None:
    rest, part = stratified_split(torch.tensor([0, 0, 1]), 0.99)
    assert len(part) == 1
    assert len(rest) == 2


def test_unlabelled_sets_split_at_random() -> None:
    rest, part = stratified_split(None, 0.25, size=100)
    assert (len(rest), len(part)) == (75, 25)
    with pytest.raises(UserError):
        stratified_split(None, 1.0, size=100)


def test_seeds_depend_on_every_part_and_its_type() -> None:
    cases: list[tuple[int | str, ...]] = [(0,), (1,), ("0",), (0, 0), (1, 11), (11, 1), (0, "a", 1), (0, "a1")]
    seeds = {derive_seed(*parts) for parts in cases}
    assert len(seeds) == 8
    # A change of these numbers changes every run: it must be meant.
    assert derive_seed(0, "augment", 1, 2) == 8124456633294986454
    assert sample_seed(0, 0) == 0xE220A8397B1DCDAF >> 1, "the first output of SplitMix64 from state 0"
    assert len({sample_seed(5, position) for position in range(10_000)}) == 10_000


def test_permutations_differ_between_epochs_only() -> None:
    sampler = RandomSampler(100, seed=3)
    assert sampler.order(0).sort().values.tolist() == list(range(100))
    assert torch.equal(sampler.order(4), RandomSampler(100, seed=3).order(4))
    assert not torch.equal(sampler.order(4), sampler.order(5))
    assert not torch.equal(sampler.order(4), RandomSampler(100, seed=4).order(4))


def test_balanced_batches() -> None:
    sizes = [40, 3, 25, 1, 60, 7]
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)] + [torch.full((9,), -1)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    sampler = ClassBalancedSampler(labels, 12, 4, seed=0)
    order = sampler.order(2)
    assert len(order) == len(sampler) == 136 // 12 * 12
    batches = order.view(-1, 3, 4)
    classes = labels[batches]
    assert bool((classes >= 0).all())
    assert bool((classes == classes[:, :, :1]).all()), "groups of one class"
    for batch in classes[:, :, 0]:
        assert len(set(batch.tolist())) == 3, "the classes of a batch differ"
    for batch, drawn in zip(batches.view(-1, 4), classes[:, :, 0].reshape(-1), strict=True):
        assert len(set(batch.tolist())) == min(4, sizes[int(drawn)]), "an image twice only in a small class"
    for c, n in enumerate(sizes):
        uses = torch.bincount(order[labels[order] == c], minlength=len(labels))[labels == c]
        assert int(uses.max() - uses.min()) <= 1, f"class {c} of {n} images is used evenly"
    assert torch.equal(order, sampler.order(2))
    assert not torch.equal(order, sampler.order(3))
    assert torch.equal(order, ClassBalancedSampler(labels, 12, 4, seed=0).order(2))
    assert not torch.equal(order, ClassBalancedSampler(labels, 12, 4, seed=1).order(2))


def groups(labels: Tensor, order: Tensor, batch: int, each: int) -> Tensor:
    """The classes of each batch, (batches, batch / each), once they have been found to be whole and distinct."""
    classes = labels[order].view(-1, batch // each, each)
    assert bool((classes == classes[:, :, :1]).all()), "groups of one class"
    drawn = classes[:, :, 0]
    assert all(len(set(row)) == len(row) for row in drawn.tolist()), "no class twice in a batch"
    return drawn


def test_balanced_batches_are_those_of_the_published_sampler(reference: Callable[[str], dict[str, Any]]) -> None:
    """As many batches, of the same make; within a class the published one draws with replacement, ours without."""
    numbers = reference("metrix_sampler")
    labels, theirs = torch.from_numpy(numbers["ys"]), torch.from_numpy(numbers["indices"])
    batch, each = int(numbers["batch_size"]), int(numbers["images_per_class"])
    ours = ClassBalancedSampler(labels, batch, each, seed=int(numbers["seed"]))
    assert len(ours) == len(theirs)
    assert groups(labels, ours.order(0), batch, each).shape == groups(labels, theirs, batch, each).shape
    assert len(theirs.view(-1, each)[0].unique()) < each
    assert all(len(group.unique()) == each for group in ours.order(0).view(-1, each))


def test_an_epoch_covers_what_it_can() -> None:
    labels = torch.arange(60) % 6
    # Every batch holds all classes: an epoch is a permutation.
    order = ClassBalancedSampler(labels, 12, 2, seed=0).order(4)
    groups(labels, order, 12, 2)
    assert order.sort().values.tolist() == list(range(60))
    # Otherwise the classes are drawn, and every image is met over the epochs, those of small classes too.
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([30, 2, 9, 19])])
    sampler = ClassBalancedSampler(labels, 8, 4, seed=0)
    met = torch.cat([sampler.order(epoch) for epoch in range(12)])
    groups(labels, met, 8, 4)
    assert met.unique().tolist() == list(range(60))


def test_classes_of_balanced_batches_are_uniform() -> None:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([1000, 10, 100, 500])])
    order = ClassBalancedSampler(labels, 4, 2, seed=0, steps=4000).order(0)
    share = torch.bincount(labels[order]).double() / len(order)
    assert torch.allclose(share, torch.full((4,), 0.25, dtype=torch.float64), atol=0.01)


@pytest.mark.parametrize(("batch", "each"), [(10, 4), (100, 1), (0, 1), (4, 0)])
def test_impossible_balanced_batches_are_refused(batch: int, each: int) -> None:
    with pytest.raises(UserError, match="batch"):
        ClassBalancedSampler(torch.arange(20) % 5, batch, each, seed=0)


def test_balanced_batches_need_labels() -> None:
    with pytest.raises(UserError, match="labels"):
        ClassBalancedSampler(None, 4, 2, seed=0)
