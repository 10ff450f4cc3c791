"""The Matryoshka-Wasserstein objective against the published implementation's numbers, and its laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.distributed.harness import run_ranks
from wasskit.distributed.collectives import average_gradients, reduce_sum
from wasskit.distributed.shard import shard_indices
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss, NestedClassifiers, normalise, smoothed_cross_entropy

References = Callable[[str], dict[str, Any]]
FILES = ("mwrl_loss_small", "mwrl_loss_large1", "mwrl_loss_large2")


def reference_loss(ref: dict[str, Any], setting: int, sinkhorn: Any) -> MatryoshkaWassersteinLoss:
    alpha, weight, beta, blur, smoothing = ref["combos"][setting].tolist()
    dims = ref["dims"].tolist()
    loss = MatryoshkaWassersteinLoss(
        len(ref[f"b_{dims[0]}"]),
        dims,
        alpha=alpha,
        wasserstein_weight=weight,
        beta=beta,
        blur=blur,
        label_smoothing=smoothing,
        ce_weights=ref["ce_weights"][setting].tolist(),
        sinkhorn=sinkhorn,
    ).double()
    loss.ce_weights.copy_(torch.tensor(ref["ce_weights"][setting]))
    with torch.no_grad():
        for d in dims:
            weight_d, bias_d = loss.classifiers.weight_at(d)
            weight_d.copy_(torch.tensor(ref[f"W_{d}"]))
            bias_d.copy_(torch.tensor(ref[f"b_{d}"]))
    return loss


def embeddings(ref: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return torch.tensor(ref["E"]).double().requires_grad_(), torch.tensor(ref["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_published_values_and_gradients(reference: References, file: str) -> None:
    """With GeomLoss's annealing: totals to 1e-8, cross entropies to 1e-10, gradients of embeddings and
    classifiers to 1e-8.
    """
    ref = reference(file)
    for setting in range(len(ref["combos"])):
        loss = reference_loss(ref, setting, "geomloss")
        e, labels = embeddings(ref)
        losses = loss(e, labels)
        assert losses.total.item() == pytest.approx(ref["total"][setting], rel=1e-8)
        assert losses.wasserstein.item() == pytest.approx(ref["w_sum"][setting], rel=1e-8)
        torch.testing.assert_close(losses.cross_entropy, torch.tensor(ref["ce"][setting]), rtol=1e-10, atol=0)
        losses.total.backward()

        grad = e.grad
        assert grad is not None
        assert grad.norm().item() == pytest.approx(ref["grad_norm"][setting], rel=1e-8)
        torch.testing.assert_close(grad.norm(dim=1), torch.tensor(ref["grad_rownorm"][setting]), rtol=1e-7, atol=1e-12)
        rows, columns = torch.arange(e.shape[0]).double(), torch.arange(e.shape[1]).double()
        probe = (grad * torch.cos(0.7 * rows[:, None] + 0.13 * columns)).sum()
        assert probe.item() == pytest.approx(ref["grad_probe"][setting], rel=1e-6, abs=1e-12)
        if "grad_E" in ref:
            torch.testing.assert_close(grad, torch.tensor(ref["grad_E"][setting]), rtol=1e-7, atol=1e-12)
        else:
            head, tail = torch.tensor(ref["grad_head"][setting]), torch.tensor(ref["grad_tail"][setting])
            torch.testing.assert_close(grad[:4, :64], head, rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(grad[:4, -64:], tail, rtol=1e-6, atol=1e-12)
        parameters = loss.classifiers
        if loss.alpha == 0:
            assert parameters.weight.grad is None
            assert ref["gradW_norm"][setting].max() == 0
        else:
            assert parameters.weight.grad is not None
            assert parameters.bias.grad is not None
            norms = torch.stack([g.norm() for g in parameters.weight.grad.split(loss.dims, 1)])
            torch.testing.assert_close(norms, torch.tensor(ref["gradW_norm"][setting]), rtol=1e-9, atol=0)
            torch.testing.assert_close(
                parameters.bias.grad.norm(dim=1), torch.tensor(ref["gradb_norm"][setting]), rtol=1e-9, atol=0
            )


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_converged_totals(reference: References, file: str, dtype: torch.dtype) -> None:
    """The default: published cross entropies plus the converged divergences."""
    ref = reference(file)
    for setting, (alpha, weight, *_) in enumerate(ref["combos"]):
        loss = reference_loss(ref, setting, "exact").to(dtype)
        e, labels = embeddings(ref)
        total = loss(e.to(dtype), labels).total
        expected = alpha * ref["ce_sum"][setting] + weight * ref["w_converged"][setting].sum()
        # Float32: each of 16 half self-transports is off by eps u = 0.25 * 6e-8 (a mean of n rounded rows), together
        # by 1.2e-7, where the smallest sum of divergences (beta = 0.1) is 0.014: 8e-6 of it.
        assert total.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float64 else 1e-5)


def test_evaluation_logits_of_raw_prefixes(reference: References) -> None:
    """The published evaluation classifies raw prefixes; ours the normalised ones, as in training."""
    ref = reference("mwrl_loss_small")
    loss = reference_loss(ref, 0, "exact")
    e, _ = embeddings(ref)
    torch.testing.assert_close(loss.classifiers(e), torch.tensor(ref["eval_logits"]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.logits(e), loss.classifiers(e / e.norm(dim=1, keepdim=True)))


@pytest.mark.parametrize("tied", [False, True])
def test_nested_classifiers_are_linear_layers_on_prefixes(tied: bool) -> None:
    """Values and all gradients as from K separate ``nn.Linear`` on slices."""
    torch.manual_seed(0)
    dims = (2, 3, 8)
    nested = NestedClassifiers(dims, 5, tied=tied).double()
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 6, 5, dtype=torch.float64)
    nested(x).backward(cotangent)
    found = (x.grad, nested.weight.grad, nested.bias.grad)
    x.grad = nested.weight.grad = nested.bias.grad = None
    logits = torch.stack([torch.nn.functional.linear(x[:, :d], *nested.weight_at(d)) for d in dims])
    torch.testing.assert_close(nested(x), logits)
    logits.backward(cotangent)
    for ours, autograd in zip(found, (x.grad, nested.weight.grad, nested.bias.grad), strict=True):
        torch.testing.assert_close(ours, autograd)


def test_tied_classifier_has_one_weight() -> None:
    tied, untied = NestedClassifiers((8, 16), 10, tied=True), NestedClassifiers((8, 16), 10)
    assert tied.weight.shape == (10, 16)
    assert untied.weight.shape == (10, 24)
    assert untied.bias.shape == (2, 10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_equals_torch(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(3, 7, 11, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 11, (7,))
    cotangent = torch.randn(3, dtype=torch.float64)
    ours = smoothed_cross_entropy(logits, labels, smoothing)
    theirs = torch.stack([torch.nn.functional.cross_entropy(x, labels, label_smoothing=smoothing) for x in logits])
    torch.testing.assert_close(ours, theirs)
    (grad,) = torch.autograd.grad(ours, logits, cotangent)
    (expected,) = torch.autograd.grad(theirs, logits, cotangent)
    torch.testing.assert_close(grad, expected)


def test_cross_entropy_survives_huge_logits() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    value = smoothed_cross_entropy(logits, torch.tensor([1]))
    assert value.item() == pytest.approx(2e4)
    value.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[[1.0, -1.0, 0.0]]]))


def test_normalise_and_its_gradient() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.testing.assert_close(normalise(x), torch.nn.functional.normalize(x, dim=1))
    assert torch.autograd.gradcheck(normalise, x)
    short = torch.tensor([[3e-13, 4e-13]], dtype=torch.float64, requires_grad=True)  # divided by 1e-12
    (found,) = torch.autograd.grad(normalise(short), short, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[1e12, 0.0]], dtype=torch.float64))
    assert normalise(torch.zeros(2, 3)).abs().max() == 0
    assert normalise(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("sinkhorn", ["exact", "geomloss"])
@pytest.mark.parametrize("tied", [False, True])
def test_objective_by_finite_differences(sinkhorn: Any, tied: bool) -> None:
    """Exact divergences and classifiers; the annealed ones are only asked for a finite gradient, as theirs is
    approximate.
    """
    torch.manual_seed(0)
    loss = MatryoshkaWassersteinLoss(
        4, (2, 4, 7), beta=3.0, blur=0.3, ce_weights=[1.0, 2.0, 0.5], tied=tied, sinkhorn=sinkhorn
    ).double()
    e, labels = torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 3, 3, 2])
    if sinkhorn == "exact":
        weight = loss.classifiers.weight
        assert torch.autograd.gradcheck(lambda x, _: loss(x, labels).total, (e, weight), atol=1e-7, rtol=1e-4)
    else:
        loss(e, labels).total.backward()
        assert e.grad is not None
        assert e.grad.isfinite().all()


@pytest.mark.parametrize("sinkhorn", ["exact", "geomloss"])
@pytest.mark.parametrize("batch", ["one sample", "identical", "zeros", "one class"])
def test_degenerate_batches_are_finite(batch: str, sinkhorn: Any) -> None:
    torch.manual_seed(0)
    loss = MatryoshkaWassersteinLoss(10, (8, 16, 32), beta=10.0, sinkhorn=sinkhorn)
    e = {
        "one sample": torch.randn(1, 32),
        "identical": torch.randn(1, 32).repeat(6, 1),
        "zeros": torch.zeros(6, 32),
        "one class": torch.randn(6, 32),
    }[batch].requires_grad_()
    losses = loss(e, torch.zeros(len(e), dtype=torch.int64))
    losses.total.backward()
    assert losses.total.isfinite()
    assert e.grad is not None
    assert e.grad.isfinite().all()


def test_weights_of_zero() -> None:
    """alpha = 0 leaves the classifiers without gradient, lambda = 0 leaves the divergences uncomputed; both
    still report the rest.
    """
    torch.manual_seed(0)
    e, labels = torch.randn(8, 32, requires_grad=True), torch.arange(8)
    transport_only = MatryoshkaWassersteinLoss(10, (8, 32), alpha=0.0)
    losses = transport_only(e, labels)
    losses.total.backward()
    assert losses.total.item() == losses.wasserstein.item()
    assert (losses.cross_entropy > 1).all()
    assert transport_only.classifiers.weight.grad is None
    classified_only = MatryoshkaWassersteinLoss(10, (8, 32), wasserstein_weight=0.0)
    losses = classified_only(e, labels)
    assert losses.wasserstein.isnan()
    torch.testing.assert_close(losses.total.detach(), losses.cross_entropy.sum())


def test_autocast_does_not_reach_the_objective() -> None:
    torch.manual_seed(0)
    loss = MatryoshkaWassersteinLoss(10, (8, 32))
    e, labels = torch.randn(8, 32).bfloat16(), torch.arange(8)
    outside = loss(e, labels).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(e, labels).total
    assert outside.dtype == inside.dtype == torch.float32
    assert inside.item() == outside.item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (8, 8)}, "repeated"),
        ({"dims": (8, 4)}, "increase"),
        ({"dims": (0, 4)}, "positive"),
        ({"dims": (4, 8), "ce_weights": [1.0]}, "2 dimensions need as many weights, not 1"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatryoshkaWassersteinLoss(10, **options)


def test_embedding_narrower_than_the_dimensions() -> None:
    with pytest.raises(ValueError, match="larger than the embedding"):
        MatryoshkaWassersteinLoss(10, (8, 16))(torch.randn(4, 12), torch.zeros(4, dtype=torch.int64))


def test_divergences_of_class_means() -> None:
    """Those of one point per vector, the mean of its class; with a vector a class, those of the embeddings."""
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 2])
    losses = [
        MatryoshkaWassersteinLoss(7, (2, 4, 8), alpha=0.0, wasserstein_points=points).double()
        for points in ("embeddings", "means")
    ]
    plain, ours = losses
    unit = torch.nn.functional.normalize(x)
    means = torch.stack([unit[labels == label].mean(0) for label in labels])
    torch.testing.assert_close(ours(x, labels).wasserstein, plain.divergences(means, "sum"), rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(ours(x, labels).total, x)
    (expected,) = torch.autograd.grad(plain.divergences(means, "sum"), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    alone = torch.arange(7)
    torch.testing.assert_close(ours(x, alone).wasserstein, plain(x, alone).wasserstein, rtol=1e-12, atol=0)


def value_and_gradients(
    sinkhorn: Any, tied: bool, points: Literal["embeddings", "means"] = "embeddings"
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One step of this rank's share of a batch of 12: mean loss, gradients of a network before and of the
    classifiers."""
    generator = torch.Generator().manual_seed(5)
    images, labels = torch.randn(12, 6, generator=generator).double(), torch.arange(12) % 4
    torch.manual_seed(0)
    network = torch.nn.Linear(6, 10).double()
    loss = MatryoshkaWassersteinLoss(
        4, (2, 5, 10), wasserstein_weight=7.0, beta=3.0, sinkhorn=sinkhorn, tied=tied, wasserstein_points=points
    ).double()
    mine = torch.tensor(list(shard_indices(12)))
    losses = loss(network(images[mine]), labels[mine])
    losses.total.backward()
    parameters = [*network.parameters(), *loss.parameters()]
    average_gradients(parameters)
    shares = torch.tensor(12 / len(mine), dtype=torch.float64)
    total = reduce_sum(losses.total.detach()) / shares
    return total, losses.wasserstein, [p.grad for p in parameters if p.grad is not None]


@pytest.mark.distributed
@pytest.mark.parametrize("sinkhorn", ["exact", "geomloss"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("points", ["embeddings", "means"])
def test_two_ranks_equal_one(sinkhorn: Any, tied: bool, points: Any) -> None:
    """With different samples on each: loss, divergences of the whole batch, and averaged gradients."""
    expected = value_and_gradients(sinkhorn, tied, points)
    for found in run_ranks(value_and_gradients, 2, sinkhorn, tied, points):
        for ours, theirs in zip(found[:2], expected[:2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        assert len(found[2]) == len(expected[2]) == 4
        for ours, theirs in zip(found[2], expected[2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sinkhorn": "annealed"}, "sinkhorn must be"),
        ({"wasserstein_points": "classes"}, "wasserstein_points must be"),
        ({"beta": -1.0}, "beta must be"),
        ({"blur": 0.0}, "blur must be"),
        ({"num_classes": 0}, "num_classes must be"),
    ],
)
def test_wrong_settings_fail_when_the_loss_is_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatryoshkaWassersteinLoss(**{"num_classes": 3, "dims": (2, 4), **settings})


def test_weights_keep_their_digits_in_double() -> None:
    weights = [0.1, 0.7, 1 / 3]
    loss = MatryoshkaWassersteinLoss(3, (2, 4, 8), ce_weights=weights).double()
    assert loss.ce_weights.tolist() == weights
    # What has been set by hand or loaded is not given back.
    loss.ce_weights.fill_(2.0)
    assert loss.float().ce_weights.tolist() == [2.0] * 3
