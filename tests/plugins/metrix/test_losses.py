from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.losses.contrastive import Contrastive, mixed_contrastive
from wasskit.plugins.metrix.losses.multisimilarity import MultiSimilarity
from wasskit.plugins.metrix.mixers import Mode
from wasskit.plugins.metrix.mixers.embed import embedding_cosines
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pair_loss import LogSum, PairLoss, ProxyLoss, chord, mean_nonzero
from wasskit.plugins.metrix.pairs import (
    KINDS,
    Kind,
    Mixing,
    Ragged,
    Triples,
    all_negatives,
    anchor_negative,
    hardest_negatives,
    positive_negative,
    relations,
)
from wasskit.plugins.metrix.published import first_positives, hardest_as_published

Reference = Callable[[str], dict[str, Any]]
BATCHES = ["mixed24", "balanced20", "mixed36", "single12"]
LOSSES = ["contrastive", "multisimilarity", "proxyanchor"]
FORMS = [*LOSSES, "cosine", "potentialfield"]
"""The losses, and the contrastive one with cosine similarities."""
MODES: list[Mode] = ["baseline", "input", "feature", "embed"]
SHORT: dict[str, Kind] = {"pn": "positive-negative", "an": "anchor-negative"}


def build(form: str, mode: Mode = "embed", **options: Any) -> MetrixLoss:
    torch.manual_seed(0)
    loss: Any = form
    if form == "cosine":
        loss, options = "contrastive", {"distance": "cosine"} | options
    return MetrixLoss(loss, mode, **{"num_classes": 8, "embedding_dim": 10} | options)


def proxies_of(module: MetrixLoss) -> Tensor:
    assert isinstance(module.clean, ProxyLoss)
    return module.clean.proxies


def balanced(classes: int = 4, each: int = 3, dim: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return F.normalize(centres[labels] + noise), labels


@pytest.mark.parametrize("batch", BATCHES)
def test_reference_losses_and_gradients(reference: Reference, batch: str) -> None:
    numbers = reference(f"metrix_pairs_{batch}")
    labels = torch.from_numpy(numbers["labels"])
    embeddings = torch.from_numpy(numbers["embeddings"]).requires_grad_()
    checked = 0
    for i, lam in enumerate(numbers["lams"].tolist()):
        for key in ("embed_pn", "embed_an", "input_pn", "input_an"):
            if f"{key}_l{i}_sim" not in numbers:
                continue
            loss = MetrixLoss("contrastive", "embed" if key.startswith("embed") else "input", published=True)
            terms = loss(
                embeddings,
                labels,
                mixing=Mixing(lam, SHORT[key[-2:]]),
                images=embeddings,
                network=lambda images: images,
            )
            expected = numbers[f"{key}_l{i}_pos_reduced"] + numbers[f"{key}_l{i}_neg_reduced"]
            assert terms.mixed.item() == pytest.approx(expected, rel=1e-10)
            assert terms.clean.item() == pytest.approx(numbers["clean_loss"], rel=1e-10)
            assert terms.triples == len(numbers[f"{key}_l{i}_sim"])
            weight = 0.3 if key == "embed_an" else 0.4
            assert terms.total.item() == pytest.approx(terms.clean.item() + weight * expected, rel=1e-10)
            (clean,) = torch.autograd.grad(terms.clean, embeddings, retain_graph=True)
            np.testing.assert_allclose(clean, numbers["clean_grad"], rtol=1e-6, atol=1e-10)
            if key.startswith("embed"):
                (mixed,) = torch.autograd.grad(terms.mixed, embeddings)
                np.testing.assert_allclose(mixed, numbers[f"{key}_l{i}_grad"], rtol=1e-6, atol=1e-10)
            checked += 1
        for key, mode in (("fix_pn", "embed"), ("fix_an_all", "embed"), ("fix_hard_pn", "input")):
            kind: Kind = "anchor-negative" if "_an" in key else "positive-negative"
            loss = MetrixLoss("contrastive", "embed", hardest=1 if mode == "input" else None)
            terms = loss(embeddings, labels, mixing=Mixing(lam, kind))
            assert terms.mixed.item() == pytest.approx(numbers[f"{key}_reduced"][i].sum(), rel=1e-10)
            assert terms.triples == numbers[f"{key}_idx"].shape[1]
    assert checked >= 2


@pytest.mark.parametrize("batch", BATCHES)
def test_reference_triple_by_triple(reference: Reference, batch: str) -> None:
    """Every published list: its indices and labels, the distance and both loss terms of each triple, the gradient."""
    numbers = reference(f"metrix_pairs_{batch}")
    labels = torch.from_numpy(numbers["labels"])
    embeddings = torch.from_numpy(numbers["embeddings"]).requires_grad_()
    unit = F.normalize(embeddings.detach())
    cosine = unit @ unit.T
    # About 1e-8 remains of a distance of 0, the root of the rounding of a cosine.
    np.testing.assert_allclose(chord(cosine, unit.shape[1]), numbers["distance"], rtol=1e-10, atol=1e-7)
    positive, negative = relations(labels, labels, own=True)
    alone = negative & ~positive.any(1, keepdim=True)
    every, lonely, items = all_negatives(negative), all_negatives(alone), torch.arange(len(labels))

    def hard(mask: Tensor, k: int) -> Ragged:
        return hardest_as_published(hardest_negatives(mask, cosine, k), mask)

    lists: dict[str, Triples] = {
        "embed_pn": first_positives(positive, every),
        "embed_an": anchor_negative(items, lonely),
        "input_pn": positive_negative(positive, hard(negative, 1)),
        "input_pn_top3": positive_negative(positive, hard(negative, 3)),
        "input_an": anchor_negative(items, hard(alone, 1)),
    }
    for name, triples in (("feature_pn", lists["embed_pn"]), ("feature_an", lists["embed_an"])):
        rows = (triples.anchor, triples.x, triples.n) if name == "feature_pn" else (triples.anchor, triples.n)
        np.testing.assert_array_equal(torch.stack(rows), numbers[f"{name}_idx"])
    known = [name.removesuffix("_sim") for name in numbers if name.endswith("_sim")]
    assert len(known) == sum(f"{key}_l{i}_sim" in numbers for key in lists for i in range(2))
    for name in known:
        key, _, index = name.rpartition("_l")
        triples, lam = lists[key], float(numbers["lams"][int(index)])
        kind = SHORT[key.split("_")[1]]
        for part, items_of in (("anc", triples.anchor), ("pos", triples.x), ("neg", triples.n)):
            if f"{name}_{part}" in numbers:
                np.testing.assert_array_equal(items_of, numbers[f"{name}_{part}"])
        np.testing.assert_array_equal(labels[triples.x], numbers[f"{name}_ypos"])
        np.testing.assert_array_equal(labels[triples.n], numbers[f"{name}_yneg"])
        found = embedding_cosines(embeddings, embeddings, triples, Mixing(lam, kind))
        distance = chord(found, embeddings.shape[1]).detach()
        pull, push = lam * distance, (1 - lam) * F.relu(0.5 - distance)
        for part, values in (("sim", distance), ("poslosses", pull), ("neglosses", push)):
            np.testing.assert_allclose(values, numbers[f"{name}_{part}"], rtol=1e-10, atol=1e-12)
        for part, values in (("pos_reduced", pull), ("neg_reduced", push)):
            np.testing.assert_allclose(mean_nonzero(values), numbers[f"{name}_{part}"], rtol=1e-10, atol=1e-14)
        (gradient,) = torch.autograd.grad(mixed_contrastive(found, lam, embeddings.shape[1]), embeddings)
        np.testing.assert_allclose(gradient, numbers[f"{name}_grad"], rtol=1e-6, atol=1e-10)
    # The published lists of anchors without a positive are as intended, as long as there is such an anchor.
    triples = lists["embed_an"]
    np.testing.assert_array_equal(torch.stack([triples.anchor, triples.n]), numbers["fix_an_idx"])
    for lam, expected in zip(numbers["lams"].tolist(), numbers["fix_an_reduced"].sum(1), strict=True):
        found = embedding_cosines(embeddings, embeddings, triples, Mixing(lam, "anchor-negative"))
        assert mixed_contrastive(found, lam, embeddings.shape[1]).item() == pytest.approx(expected, rel=1e-10)


FORM: dict[str, PairLoss] = {"contrastive": Contrastive("cosine"), "ms": MultiSimilarity()}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("loss", ["contrastive", "ms"])
def test_reference_of_the_paper_form(reference: Reference, batch: str, loss: str) -> None:
    """The paper's formula, averaged over anchors with both a positive and a negative."""
    numbers = reference(f"metrix_pairs_{batch}")
    labels = torch.from_numpy(numbers["labels"])
    x = F.normalize(torch.from_numpy(numbers["embeddings"]))
    positive, negative = relations(labels, labels, own=True)
    both = positive.any(1) & negative.any(1)
    for i, lam in enumerate(numbers["lams"].tolist()):
        clean = sum(
            half.per_anchor((x @ x.T)[mask], mask.nonzero()[:, 0], len(x), 1.0)[both].mean()
            for half, mask in zip(FORM[loss].halves, (positive, negative), strict=True)
        )
        expected = numbers[f"generic_{loss}"][i]
        assert float(clean) == pytest.approx(expected[0], rel=1e-10)
        negatives = all_negatives(negative)
        lists = (positive_negative(positive, negatives), anchor_negative(both.nonzero()[:, 0], negatives))
        for column, (kind, triples) in enumerate(zip(KINDS, lists, strict=True), start=1):
            cosine = embedding_cosines(x, x, triples, Mixing(lam, kind))
            mixed = FORM[loss].mixed(cosine, triples.anchor, len(x), lam, x.shape[1])
            assert mixed.item() == pytest.approx(expected[column], rel=1e-10)


def looped(x: Tensor, labels: list[int], lam: float | None, kind: Kind, margin: float = 0.5) -> Tensor:
    """The contrastive loss of the paper, item by item: clean without a lambda, else mixed."""
    losses = []
    for a, label in enumerate(labels):
        positives = [p for p, other in enumerate(labels) if other == label and p != a]
        negatives = [n for n, other in enumerate(labels) if other != label]
        if not positives or not negatives:
            continue
        if lam is None:
            items = [(x[p], 1.0) for p in positives] + [(x[n], 0.0) for n in negatives]
        else:
            firsts = positives if kind == "positive-negative" else [a]
            items = [(lam * x[f] + (1 - lam) * x[n], lam) for f in firsts for n in negatives]
        mixed = torch.stack([item for item, _ in items])
        y = torch.tensor([share for _, share in items], dtype=x.dtype)
        s = F.cosine_similarity(mixed, x[a : a + 1], dim=1)
        losses.append((-y * s + (1 - y) * F.relu(s - margin)).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["embed", "feature", "input"])
def test_cosine_form_in_every_mode(reference: Reference, batch: str, kind: Kind, mode: Mode) -> None:
    """Values as in the reference, gradients as of a plain loop, through a linear network without effect."""
    numbers = reference(f"metrix_pairs_{batch}")
    labels = torch.from_numpy(numbers["labels"])
    images = F.normalize(torch.from_numpy(numbers["embeddings"]))
    weight = torch.eye(images.shape[1], dtype=torch.float64, requires_grad=True)
    objective = MetrixLoss("contrastive", mode, distance="cosine", hardest=None if mode == "embed" else 99)
    for i, lam in enumerate(numbers["lams"].tolist()):
        x = images @ weight
        terms = objective(
            x,
            labels,
            mixing=Mixing(lam, kind),
            # The sum of average and maximum of a single position is twice its value.
            maps=images[:, :, None, None] / 2,
            head=lambda pooled: pooled @ weight,
            images=images,
            network=lambda mixed: mixed @ weight,
        )
        clean, *both = numbers["generic_contrastive"][i]
        mixed = both[KINDS.index(kind)]
        values = (clean, mixed, clean + 0.4 * mixed)
        assert [v.item() for v in (terms.clean, terms.mixed, terms.total)] == pytest.approx(values, rel=1e-10)
        for ours, known in ((terms.clean, None), (terms.mixed, lam)):
            theirs = looped(x, labels.tolist(), known, kind)
            gradients = [torch.autograd.grad(v, weight, retain_graph=True)[0] for v in (ours, theirs)]
            torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_cosine_form_is_a_sum_of_the_library() -> None:
    """With the positives' margin at 1, pytorch-metric-learning's sum of pairs differs by a constant for each."""
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import ContrastiveLoss
    from pytorch_metric_learning.reducers import SumReducer

    x, labels = balanced(4, 3)
    x.requires_grad_()
    theirs = ContrastiveLoss(1.0, 0.3, distance=CosineSimilarity(), reducer=SumReducer())(x, labels)
    ours = Contrastive("cosine", 0.3)(x, labels)
    assert ours.item() == pytest.approx((theirs.item() - 4 * 3 * 2) / 12, rel=1e-10)
    gradients = [torch.autograd.grad(value, x)[0] for value in (ours, theirs / 12)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


class Network(torch.nn.Module):
    """The network of the reference steps."""

    def __init__(self, numbers: dict[str, Any]) -> None:
        super().__init__()
        names = ("conv_w", "conv_b", "emb_w", "emb_b")
        weights = [torch.nn.Parameter(torch.from_numpy(numbers[name])) for name in names]
        self.conv_w, self.conv_b, self.emb_w, self.emb_b = weights

    def maps(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.conv_w, self.conv_b, padding=1).relu()

    def head(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled, self.emb_w, self.emb_b)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images)
        embedding = self.head(maps.amax((2, 3)) + maps.mean((2, 3)))
        return embedding / (embedding.square().sum(1, keepdim=True) + 1e-12).sqrt()


@pytest.mark.parametrize("batch", ["mixed24", "balanced20"])
@pytest.mark.parametrize("name", ["baseline", "input0", "input1", "embed0", "embed1", "feature0", "feature1"])
def test_reference_steps(reference: Reference, batch: str, name: str) -> None:
    numbers = reference(f"metrix_step_{batch}")
    if f"{name}_total" not in numbers:
        pytest.skip("the published step fails on this batch")
    network = Network(numbers)
    images = torch.from_numpy(numbers["inputs"]).double()
    mode: Any = name.rstrip("01")
    kind: Kind = "anchor-negative" if name.endswith("1") else "positive-negative"
    terms = MetrixLoss("contrastive", mode, published=True)(
        network(images),
        torch.from_numpy(numbers["labels"]),
        mixing=Mixing(float(numbers["lam"]), kind),
        maps=network.maps(images),
        head=network.head,
        images=images,
        network=network,
    )
    assert terms.total.item() == pytest.approx(numbers[f"{name}_total"], rel=1e-8)
    assert terms.clean.item() == pytest.approx(numbers["clean_loss"], rel=1e-8)
    np.testing.assert_allclose(network(images).detach(), numbers["clean_embedding"], rtol=1e-10)
    terms.total.backward()
    for parameter, values in network.named_parameters():
        expected = torch.from_numpy(numbers[f"{name}_grad_{parameter}"])
        torch.testing.assert_close(values.grad, expected, rtol=1e-6, atol=1e-10)


CLEAN_BATCHES = {
    "usual": [0, 0, 0, 1, 1, 2, 2, 2, 3],
    "one class": [4] * 6,
    "no positive": [0, 1, 2, 3, 4],
    "one item": [2],
    "two items": [1, 1],
    "equal items": [0, 0, 1, 1, 0],
    "opposite items": [0, 0, 1],
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", CLEAN_BATCHES)
def test_clean_losses_are_those_of_the_library(loss: str, batch: str) -> None:
    """Our dense forms give pytorch-metric-learning's losses, values and gradients, of degenerate batches too."""
    from pytorch_metric_learning import distances, losses

    module = build(loss, "baseline").double()
    theirs: Any = {
        "contrastive": lambda: losses.ContrastiveLoss(0.0, 0.5, distance=distances.LpDistance()),
        "multisimilarity": lambda: losses.MultiSimilarityLoss(18.0, 75.0, 0.77),
        "proxyanchor": lambda: losses.ProxyAnchorLoss(8, 10, margin=0.1, alpha=32),
    }[loss]()
    labels = torch.tensor(CLEAN_BATCHES[batch])
    x = torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if batch == "equal items":
        x[1] = x[0]
        x[3] = x[0]
    elif batch == "opposite items":
        x[1] = -x[0]
    x.requires_grad_()
    inputs = [x]
    if loss == "proxyanchor":
        # Drawn as the library draws them, so that runs of earlier versions go on as they were.
        torch.manual_seed(0)
        drawn = losses.ProxyAnchorLoss(8, 10).proxies
        assert torch.equal(proxies_of(module), drawn.double())
        theirs.proxies = proxies_of(module)
        inputs.append(proxies_of(module))
    values = [module(x, labels).clean, theirs(x, labels)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12, abs=1e-14)
    gradients = [torch.autograd.grad(value, inputs, allow_unused=True) for value in values]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(
            ours, torch.zeros_like(ours) if expected is None else expected, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("loss", FORMS)
@pytest.mark.parametrize("lam", [1.0, 0.0])
def test_ends_of_lambda_are_the_clean_halves(loss: str, lam: float) -> None:
    """At lambda = 1 the mixed loss is the clean positive half, every p as often as it met a negative; at 0 the
    negative half. With one negative per anchor, or for a mean over pairs, the clean half itself remains."""
    x, labels = balanced(8)
    own = loss != "proxyanchor"
    module = build(loss).double()
    terms = module(x, labels, mixing=Mixing(lam, "positive-negative"))
    anchors = x if own else F.normalize(proxies_of(module))
    positive, negative = relations(labels if own else torch.arange(8), labels, own=own)
    cosine = anchors @ x.T
    if loss == "contrastive":
        half = mean_nonzero(chord(cosine[positive], 10) if lam else F.relu(0.5 - chord(cosine[negative], 10)))
        assert terms.mixed.item() == pytest.approx(half.item(), rel=1e-6)
        return
    mask, other = (positive, negative) if lam else (negative, positive)
    repeated = float(other.sum(1)[0])
    clean_half = module.clean.halves[0 if lam else 1]
    half = clean_half.per_anchor(cosine[mask], mask.nonzero()[:, 0], len(anchors), repeated).mean()
    assert terms.mixed.item() == pytest.approx(half.item(), rel=1e-9)
    if lam == 1:
        once = build(loss, hardest=1).double()(x, labels, mixing=Mixing(1.0, "positive-negative"))
        half = clean_half.per_anchor(cosine[mask], mask.nonzero()[:, 0], len(anchors), 1.0).mean()
        assert once.mixed.item() == pytest.approx(half.item(), rel=1e-9)


@pytest.mark.parametrize("loss", FORMS)
def test_anchor_negative_mixing_at_zero_is_the_clean_negative_half(loss: str) -> None:
    x, labels = balanced(8)
    module = build(loss).double()
    terms = module(x, labels, mixing=Mixing(0.0, "anchor-negative"))
    own = loss != "proxyanchor"
    anchors = x if own else F.normalize(proxies_of(module))
    _, negative = relations(labels if own else torch.arange(8), labels, own=own)
    cosine = (anchors @ x.T)[negative]
    if loss == "contrastive":
        half = mean_nonzero(F.relu(0.5 - chord(cosine, 10)))
    else:
        half = module.clean.halves[1].per_anchor(cosine, negative.nonzero()[:, 0], len(anchors), 1.0).mean()
    assert terms.mixed.item() == pytest.approx(half.item(), rel=1e-9)


@pytest.mark.parametrize("loss", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_finite_differences(loss: str, kind: Kind) -> None:
    x, labels = balanced(3, 2, 4)
    scales: dict[str, Any] = {"similarity_scales": (2.0, 5.0, 0.5), "proxy_scales": (4.0, 0.1)}
    module = build(loss, num_classes=3, embedding_dim=4, **scales).double()
    assert torch.autograd.gradcheck(
        lambda y: module(y, labels, mixing=Mixing(0.35, kind)).total, (x.clone().requires_grad_(),)
    )


@pytest.mark.parametrize("loss", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_degenerate_batches_are_finite_and_say_so(loss: str, mode: Mode, kind: Kind, lam: float) -> None:
    module = build(loss, mode)
    weight = torch.nn.Parameter(torch.randn(10, 6, generator=torch.Generator().manual_seed(3)))
    batches = {
        "one class": torch.zeros(6, dtype=torch.int64),
        "no positive": torch.arange(6),
        "one item": torch.tensor([2]),
        "usual": torch.tensor([0, 0, 1, 1, 2, 2]),
    }
    for name, labels in batches.items():
        maps = torch.randn(len(labels), 6, 2, 2, generator=torch.Generator().manual_seed(4)).relu()
        if name == "one class":
            maps[1] = maps[0]  # two equal items: distance 0

        def network(images: Tensor) -> Tensor:
            return F.normalize(F.linear(images.amax((2, 3)) + images.mean((2, 3)), weight))

        terms = module(
            network(maps),
            labels,
            mixing=Mixing(lam, kind),
            maps=maps,
            head=lambda pooled: F.linear(pooled, weight),
            images=maps,
            network=network,
        )
        (gradient,) = torch.autograd.grad(terms.total, weight, allow_unused=True)
        assert terms.total.isfinite()
        assert gradient is None or gradient.isfinite().all()
        if mode == "baseline":
            assert (terms.triples, terms.skipped) == (0, "")
        elif name in ("one class", "one item"):
            assert terms.triples == 0
            assert "one class" in terms.skipped
        elif name == "usual":
            assert terms.triples > 0
            assert not terms.skipped


def test_no_positive_is_named() -> None:
    x, _ = balanced(6, 1)
    terms = MetrixLoss("contrastive")(x, torch.arange(6), mixing=Mixing(0.5, "positive-negative"))
    assert terms.triples == 0
    assert "no item of the batch has a positive" in terms.skipped
    # Anchors without a positive still mix with their negatives, as in the published code.
    terms = MetrixLoss("contrastive")(x, torch.arange(6), mixing=Mixing(0.5, "anchor-negative"))
    assert terms.triples == 30
    # In the paper's sums they have no part, in the clean loss no more than in the mixed one.
    for kind in KINDS:
        terms = build("cosine")(x, torch.arange(6), mixing=Mixing(0.5, kind))
        assert (terms.triples, terms.clean.item()) == (0, 0.0)
        assert "no item of the batch has a positive" in terms.skipped
    lonely = build("cosine")(x, torch.tensor([0, 0, 1, 2, 3, 3]), mixing=Mixing(0.5, "anchor-negative"))
    assert lonely.triples == 4 * 4
    x, labels = balanced()
    terms = MetrixLoss("contrastive", published=True)(x, labels, mixing=Mixing(0.5, "anchor-negative"))
    assert "published" in terms.skipped


def test_log_sums_do_not_overflow() -> None:
    cosine = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    anchor = torch.tensor([0, 0, 2])
    values = LogSum(400.0, 0.0, 400.0).per_anchor(cosine, anchor, 3, 0.5)
    values.sum().backward()
    expected = [1.0 + math.log(0.5) / 400, 0.0, 0.5 + math.log(0.5) / 400]
    assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert cosine.grad is not None
    assert cosine.grad.tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)


def test_contrastive_counts_non_zero_terms_only() -> None:
    cosine = torch.tensor([1.0, 0.5, -1.0])  # distances 0, 1, 2
    assert mixed_contrastive(cosine, 0.25, 2).item() == pytest.approx(0.25 * 1.5 + 0.75 * 0.5)
    assert mixed_contrastive(cosine[:0], 0.25, 2).item() == 0.0


@pytest.mark.parametrize("loss", FORMS)
@pytest.mark.parametrize("mode", ["embed", "feature", "input"])
def test_modes_agree_where_mixing_commutes_with_the_network(loss: str, mode: Mode) -> None:
    """A linear network with 1 x 1 maps: mixing before or after it is the same."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(4).repeat_interleave(3)
    images = torch.randn(12, 10, 1, 1, generator=generator, dtype=torch.float64)
    module = build(loss, mode).double()
    reference = build(loss, "embed", hardest=module.pairing.hardest).double()
    raw = images.flatten(1)
    mixing = Mixing(0.3, "positive-negative")
    terms = module(
        2 * raw,
        labels,
        mixing=mixing,
        maps=images,
        head=lambda pooled: pooled,
        images=images,
        network=lambda x: 2 * x.flatten(1),
    )
    expected = reference(2 * raw, labels, mixing=mixing)
    assert terms.total.item() == pytest.approx(expected.total.item(), rel=1e-10)


@pytest.mark.parametrize("mode", ["embed", "feature", "input"])
def test_autocast_leaves_similarities_exact(mode: Mode) -> None:
    """Only network and head run in bf16: exponents of 75 times a similarity would not stand its 8 bits."""
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(4).repeat_interleave(3)
    images = F.normalize(torch.randn(12, 10, 1, 1, generator=generator), dim=1)
    module = build("multisimilarity", mode)

    def total() -> Tensor:
        terms = module(
            images.flatten(1), labels, mixing=Mixing(0.3, "positive-negative"), maps=images,
            head=lambda pooled: pooled, images=images, network=lambda x: x.flatten(1),
        )  # fmt: skip
        assert terms.total.dtype == torch.float32
        value: Tensor = terms.total
        return value

    expected = total()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert total().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", FORMS)
def test_input_mode_mixes_with_the_hardest_negative(loss: str) -> None:
    """One negative for each anchor, the most similar; the network sees each mixed image once."""
    x, labels = balanced(5, 3)
    seen: list[Tensor] = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return images @ x.new_ones(15, 10)

    module = build(loss, "input").double()
    # Image i is the i-th unit vector, so a mixture tells what it is made of.
    terms = module(x, labels, mixing=Mixing(0.25, "positive-negative"), images=torch.eye(15).double(), network=network)
    expected = set()
    anchors, classes = (x, labels) if loss != "proxyanchor" else (F.normalize(proxies_of(module)), range(5))
    for a, label in enumerate(classes):
        wrong = [n for n in range(15) if labels[n] != label]
        hardest = max(wrong, key=lambda n: (anchors[a] @ x[n]).item())
        own = [p for p in range(15) if labels[p] == label and (loss == "proxyanchor" or p != a)]
        expected |= {(p, hardest) for p in own}
    (images,) = seen
    assert torch.equal(images.sort(1).values[:, -3:], x.new_tensor([0.0, 0.25, 0.75]).expand(len(images), 3))
    found = list(zip(images.eq(0.25).nonzero()[:, 1].tolist(), images.argmax(1).tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert terms.triples == (15 if loss == "proxyanchor" else 30)


def test_draws_come_from_the_generator() -> None:
    x, labels = balanced()
    loss = MetrixLoss("contrastive", max_triples=20)
    values = [loss(x, labels, rng=np.random.default_rng(seed)).total.item() for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    assert loss(x, labels, rng=np.random.default_rng(0)).triples == 20
    torch.manual_seed(5)
    first = loss(x, labels).total.item()
    torch.manual_seed(5)
    assert loss(x, labels).total.item() == first


def test_proxies_of_absent_classes_stay_out_of_the_mixed_loss() -> None:
    x, labels = balanced(3)
    module = build("proxyanchor", "embed").double()
    mixed = module(x, labels, mixing=Mixing(0.4, "positive-negative")).mixed
    (gradient,) = torch.autograd.grad(mixed, proxies_of(module))
    assert gradient[:3].abs().sum() > 0
    assert torch.equal(gradient[3:], torch.zeros_like(gradient[3:]))
    assert build("proxyanchor", "feature").kinds == ("positive-negative",)


@pytest.mark.parametrize("mode", ["feature", "input"])
def test_proxies_that_are_no_items_leave_the_mixing_to_positives(mode: Mode) -> None:
    """Their numbers are not those of items, whatever kind of pairs is asked for."""
    _, labels = balanced(3)
    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(3)).double()
    maps = torch.randn(len(labels), 6, 2, 2, generator=torch.Generator().manual_seed(4)).double()

    def network(images: Tensor) -> Tensor:
        return F.normalize(F.linear(images.amax((2, 3)) + images.mean((2, 3)), weight))

    values = [
        build("proxyanchor", mode).double()(
            network(maps), labels, mixing=Mixing(0.4, kind), maps=maps, head=lambda pooled: F.linear(pooled, weight),
            images=maps, network=network,
        )
        for kind in KINDS
    ]  # fmt: skip
    assert values[0].triples == values[1].triples
    assert values[0].mixed.item() == values[1].mixed.item()


def test_what_cannot_be_computed_is_refused() -> None:
    x, labels = balanced()
    with pytest.raises(ValueError, match="contrastive loss only"):
        MetrixLoss("multisimilarity", published=True)
    with pytest.raises(ValueError, match="num_classes"):
        MetrixLoss("proxyanchor")
    with pytest.raises(ValueError, match="Euclidean distances: leave published or cosine off"):
        MetrixLoss("contrastive", published=True, distance="cosine")
    with pytest.raises(ValueError, match="unknown distance 'manhattan': euclidean, cosine"):
        MetrixLoss("contrastive", distance="manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown loss"):
        MetrixLoss("triplet")
    with pytest.raises(ValueError, match="the loss contrastive has no setting 'decay': it has none"):
        MetrixLoss("contrastive", settings={"decay": 2.0})
    with pytest.raises(ValueError, match="needs maps"):
        MetrixLoss(mode="feature")(x, labels)
    with pytest.raises(ValueError, match="needs images"):
        MetrixLoss(mode="input")(x, labels)


@pytest.mark.parametrize("loss", FORMS)
def test_batches_that_are_none_are_refused(loss: str) -> None:
    x, labels = balanced()
    module = build(loss).double()
    for embeddings, classes, message in (
        (x[0], labels, r"matrix \(B, D\), not torch.float64 of shape \(10,\)"),
        (x[None], labels, r"matrix \(B, D\), not torch.float64 of shape \(1, 12, 10\)"),
        (x.long(), labels, r"floating-point matrix \(B, D\), not torch.int64"),
        (x, labels[:5], r"12 integers, one per embedding, not torch.int64 of shape \(5,\)"),
        (x, labels[:, None], r"12 integers, one per embedding, not torch.int64 of shape \(12, 1\)"),
        (x, labels.double(), "12 integers, one per embedding, not torch.float64"),
        (x, labels > 1, "12 integers, one per embedding, not torch.bool"),
    ):
        with pytest.raises(ValueError, match=message):
            module(embeddings, classes)
    # Any integers name classes.
    mixing = Mixing(0.4, "positive-negative")
    wide, narrow = (module(x, y, mixing=mixing).total.item() for y in (labels, labels.to(torch.int16)))
    assert wide == narrow


def test_batches_that_do_not_fit_the_proxies_are_refused() -> None:
    x, labels = balanced()
    module = build("proxyanchor").double()
    with pytest.raises(ValueError, match="the proxies have 10 dimensions, the embeddings 7"):
        module(x[:, :7], labels)
    for shift, message in ((-1, "labels 0 to 7, but the labels range from -1 to 2"), (6, "range from 6 to 9")):
        with pytest.raises(ValueError, match=message):
            module(x, labels + shift)


def test_maps_and_images_that_do_not_fit_are_refused() -> None:
    x, labels = balanced()
    mixing = Mixing(0.4, "positive-negative")
    maps = torch.randn(12, 6, 2, 2, dtype=torch.float64)
    for given, width, message in (
        (maps[:5], 10, r"feature maps \(12, C, H, W\) of the batch, not torch.float64 of shape \(5, 6, 2, 2\)"),
        (maps[:, :, 0, 0], 10, r"of shape \(12, 6\)"),
        (maps.long(), 10, "not torch.int64"),
        (maps.float(), 10, "maps are torch.float32, the embeddings torch.float64: take one precision"),
        (maps, 7, r"of 108 mixtures must have the shape \(108, 10\) that the batch's have, not \(108, 7\)"),
    ):
        head = torch.nn.Linear(6, width).double()
        with pytest.raises(ValueError, match=message):
            MetrixLoss(mode="feature", hardest=None)(x, labels, maps=given, head=head, mixing=mixing)
    for images, message in (
        (maps[:5], r"the 12 floating-point images of the batch, not torch.float64 of shape \(5, 6, 2, 2\)"),
        (maps.byte(), "images of the batch, not torch.uint8"),
        (maps, r"that the batch's have, not \(\d+, 24\)"),
    ):
        with pytest.raises(ValueError, match=message):
            MetrixLoss(mode="input")(x, labels, images=images, network=lambda images: images.flatten(1), mixing=mixing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, "weight must be at least 0, not -0.1"),
        ({"hardest": 0}, "hardest must be at least 1, not 0"),
        ({"max_triples": 0}, "max_triples must be at least 1, not 0"),
        ({"alpha": 0.0}, "alpha must be positive, not 0.0"),
        ({"kinds": ()}, "positive-negative or anchor-negative or both"),
        ({"kinds": ("pn",)}, "not \\('pn',\\)"),
        ({"similarity_scales": (1.0, 2.0)}, "similarity_scales are 3 numbers, not 2"),
        ({"proxy_scales": (1.0,)}, "proxy_scales are 2 numbers, not 1"),
        ({"proxy_scales": (0.0, 0.1)}, "must be positive: at 0 nothing is learned"),
        ({"similarity_scales": (2.0, -1.0, 0.5)}, "must be positive: at 0 nothing is learned"),
    ],
)
def test_settings_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    loss = {"similarity_scales": "multisimilarity", "proxy_scales": "proxyanchor"}.get(next(iter(options)))
    with pytest.raises(ValueError, match=message):
        build(loss or "contrastive", **options)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown mode 'embeddings': baseline, input, feature, embed"):
        MetrixLoss("contrastive", "embeddings")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [3, 128, 513, 2048])
def test_a_mixture_that_equals_its_anchor_is_no_term(dtype: torch.dtype, width: int) -> None:
    """In value and gradient, for cosines of equal points, whichever way they were rounded."""
    x = torch.nn.functional.normalize(
        torch.randn(200, width, generator=torch.Generator().manual_seed(0), dtype=dtype), dim=1
    )
    equal = (x @ x.T).diagonal()
    apart = equal.new_tensor([0.9, -0.3])
    cosine = torch.cat([equal, apart]).requires_grad_()
    assert torch.equal(chord(cosine[:200], width), torch.zeros(200, dtype=dtype))
    value = mixed_contrastive(cosine, 1.0, width)
    value.backward()
    expected = (2 - 2 * apart).sqrt().mean()
    assert value.item() == pytest.approx(expected.item(), rel=4 * torch.finfo(dtype).eps)
    assert cosine.grad is not None
    assert not cosine.grad[:200].any()
    assert cosine.grad[200:].all()
    # At lambda = 0 each of them stands within the margin by all of it.
    assert mixed_contrastive(cosine.detach(), 0.0, width).item() == pytest.approx(
        (200 * 0.5 + 0.5 - expected_near(0.9)) / 201
    )


def expected_near(cosine: float) -> float:
    return float((2 - 2 * cosine) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [3, 512, 2048])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1 / 3, 1.0])
def test_mixtures_of_equal_points_pull_nothing(dtype: torch.dtype, width: int, lam: float) -> None:
    """Anchor, positive and negative one point: in exact arithmetic every mixture is the anchor, at distance 0."""
    generator = torch.Generator().manual_seed(1)
    points = torch.nn.functional.normalize(torch.randn(50, width, generator=generator, dtype=dtype), dim=1)
    x = points.repeat(3, 1).requires_grad_()
    anchor = torch.arange(50)
    lists: dict[Kind, Triples] = {
        "positive-negative": Triples(anchor, anchor + 50, anchor + 100),
        "anchor-negative": Triples(anchor, anchor, anchor + 100),
    }
    for kind, triples in lists.items():
        cosine = embedding_cosines(x, x, triples, Mixing(lam, kind))
        value = mixed_contrastive(cosine, lam, width)
        # The pull is nothing; the push is the whole margin, of distances that have no direction.
        assert value.item() == pytest.approx((1 - lam) * 0.5, rel=4 * torch.finfo(dtype).eps)
        (gradient,) = torch.autograd.grad(value, x)
        assert not gradient.any()
