r"""The Matryoshka-Wasserstein objective: nested classifiers and nested Sinkhorn divergences on one embedding.

For embeddings E (B, D), normalised over their full width to :math:`\hat e_i = E_i / \max(\|E_i\|, 10^{-12})`,
the prefixes :math:`\hat e_i[:d_k]` are classified as they are, not normalised again:

.. math::
    L = \alpha \sum_{k=1}^{K} w_k\, \mathrm{CE}_k + \lambda \sum_{k=1}^{K-1} S_k, \qquad
    \mathrm{CE}_k = \overline{\mathrm{CE}\bigl(W_k\, \hat e[:d_k] + b_k,\ y\bigr)},

CE with label smoothing, and :math:`S_k` the Sinkhorn divergence between prefix k and prefix k + 1 of
the batch (:mod:`wasskit.ot.sinkhorn`); or, which the paper has not, of its class means (`class_means`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from wasskit.distributed.collectives import gather_with_grad
from wasskit.ot.geomloss import annealed_nested_sinkhorn_divergences
from wasskit.ot.nesting import check_dims
from wasskit.ot.precision import at_least_float32, full_precision
from wasskit.ot.sinkhorn import nested_sinkhorn_divergences

PUBLISHED_DIMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class MatryoshkaLosses(NamedTuple):
    """The objective and its parts, all scalars on the device but the first part."""

    total: Tensor
    """The objective, to be differentiated."""
    cross_entropy: Tensor
    """(K,) cross entropy of the classifier at each dimension, unweighted."""
    wasserstein: Tensor
    """Sum of the K - 1 divergences, unweighted; NaN where its weight is zero and it was not computed."""


class MatryoshkaWassersteinLoss(nn.Module):
    """The objective with its classifiers, which are parameters of the loss.

    Args:
        num_classes: number of classes C.
        dims: nested dimensions, strictly increasing; the embedding has at least the largest.
        alpha: weight of the cross entropies; at 0 the classifiers are evaluated but not trained.
        wasserstein_weight: weight lambda of the divergences; at 0 they are not computed.
        beta: weight of the residual coordinates in the ground cost.
        blur: square root of the entropic strength (the paper's epsilon).
        label_smoothing: share of the target spread evenly over the classes.
        ce_weights: K weights of the cross entropies; all one by default.
        tied: one classifier for all dimensions, sliced (MRL-E), instead of one each.
        sinkhorn: ``"exact"`` for the converged divergences, ``"geomloss"`` for the annealed ones as published.
        wasserstein_points: what the divergences compare, ``"embeddings"`` as published or their ``"means"`` by class.

    Raises:
        ValueError: dimensions that are not strictly increasing, parameters out of range, a wrong number of weights.

    Example:
        >>> import torch, wasskit
        >>> criterion = wasskit.MatryoshkaWassersteinLoss(num_classes=10, dims=(8, 16, 32))
        >>> embeddings = torch.randn(64, 32, requires_grad=True)
        >>> losses = criterion(embeddings, torch.arange(64) % 10)
        >>> losses.total.backward()
    """

    ce_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        dims: Sequence[int] = PUBLISHED_DIMS,
        *,
        alpha: float = 1.0,
        wasserstein_weight: float = 1.0,
        beta: float = 1.0,
        blur: float = 0.5,
        label_smoothing: float = 0.1,
        ce_weights: Sequence[float] | None = None,
        tied: bool = False,
        sinkhorn: Literal["exact", "geomloss"] = "exact",
        wasserstein_points: Literal["embeddings", "means"] = "embeddings",
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        weights = [1.0] * len(self.dims) if ce_weights is None else list(ce_weights)
        if len(weights) != len(self.dims):
            raise ValueError(f"{len(self.dims)} dimensions need as many weights, not {len(weights)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be zero or positive, not {beta}")
        if not (math.isfinite(blur) and blur > 0):
            raise ValueError(f"blur must be positive, not {blur}")
        if sinkhorn not in ("exact", "geomloss"):
            raise ValueError(f"sinkhorn must be 'exact' or 'geomloss', not {sinkhorn!r}")
        if wasserstein_points not in ("embeddings", "means"):
            raise ValueError(f"wasserstein_points must be 'embeddings' or 'means', not {wasserstein_points!r}")
        self.alpha = alpha
        self.wasserstein_weight = wasserstein_weight
        self.beta = beta
        self.blur = blur
        self.label_smoothing = label_smoothing
        self.sinkhorn = sinkhorn
        self.wasserstein_points = wasserstein_points
        self._given_weights = weights
        self.register_buffer("ce_weights", torch.tensor(weights, dtype=torch.get_default_dtype()))
        self.classifiers = NestedClassifiers(self.dims, num_classes, tied=tied)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MatryoshkaWassersteinLoss:
        """Convert the module, the weights from the numbers given rather than from their rounding in another dtype."""
        before = self.ce_weights
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        unchanged = not before.is_meta and torch.equal(before, before.new_tensor(self._given_weights))
        if unchanged and self.ce_weights.dtype != before.dtype:
            self.ce_weights = self.ce_weights.new_tensor(self._given_weights)
        return self

    def forward(self, embeddings: Tensor, labels: Tensor) -> MatryoshkaLosses:
        """Losses of a batch: embeddings (B, D) before normalisation, labels (B,) int64.

        Computed in float32 at least, whatever the autocast. On several ranks B is a rank's equal share; the
        cross entropies are its own, and the divergences are those of the whole batch, gathered with
        gradients: averaging the ranks' gradients gives the gradient of the whole batch on one rank.
        """
        with full_precision(embeddings):
            normalised = normalise(embeddings)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.alpha != 0):
                logits = self.classifiers(normalised)
                cross_entropy = smoothed_cross_entropy(logits, labels, self.label_smoothing)
            total = self.alpha * (self.ce_weights @ cross_entropy)
            if self.wasserstein_weight == 0:
                wasserstein = torch.full_like(total, math.nan)
            else:
                points = gather_with_grad(normalised)
                if self.wasserstein_points == "means":
                    points = class_means(points, gather_with_grad(labels))
                wasserstein = self.divergences(points, reduction="sum")
                total = total + self.wasserstein_weight * wasserstein
        return MatryoshkaLosses(total, cross_entropy.detach(), wasserstein.detach())

    def divergences(self, normalised: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
        """The (K - 1,) divergences between consecutive prefixes of normalised embeddings (B, D), or their sum."""
        if self.sinkhorn == "geomloss":
            values = annealed_nested_sinkhorn_divergences(normalised, self.dims, beta=self.beta, blur=self.blur)
            return values.sum() if reduction == "sum" else values
        return nested_sinkhorn_divergences(normalised, self.dims, beta=self.beta, blur=self.blur, reduction=reduction)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(K, B, C) logits of the prefixes of embeddings (B, D), normalised as in training."""
        with full_precision(embeddings):
            logits: Tensor = self.classifiers(normalise(embeddings))
        return logits

    def extra_repr(self) -> str:
        return (
            f"dims={self.dims}, alpha={self.alpha}, wasserstein_weight={self.wasserstein_weight}, "
            f"beta={self.beta}, blur={self.blur}, label_smoothing={self.label_smoothing}, "
            f"sinkhorn={self.sinkhorn!r}, wasserstein_points={self.wasserstein_points!r}"
        )


class NestedClassifiers(nn.Module):
    """Linear classifiers of the nested prefixes, one each or one for all.

    Untied, ``weight`` (C, d_1 + ... + d_K) holds the K matrices side by side and ``bias`` is (K, C). Tied,
    one ``weight`` (C, d_K) is sliced to its first d_k columns and ``bias`` is (C,). One tensor instead of K
    keeps the optimiser's and the gradients' work to one operation. Initialised as K layers of ``nn.Linear``
    would be (the tied one as one of width d_K).
    """

    def __init__(self, dims: Sequence[int], num_classes: int, *, tied: bool = False) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.num_classes = num_classes
        self.tied = tied
        widths = (self.dims[-1],) if tied else self.dims
        self.weight = nn.Parameter(torch.empty(num_classes, sum(widths)))
        self.bias = nn.Parameter(torch.empty(num_classes) if tied else torch.empty(len(widths), num_classes))
        with torch.no_grad():
            for weight, bias, width in zip(
                self.weight.split(widths, 1), self.bias.view(-1, num_classes), widths, strict=True
            ):
                weight.uniform_(-(width**-0.5), width**-0.5)
                bias.uniform_(-(width**-0.5), width**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """(B, at least d_K) -> logits (K, B, C)."""
        check_dims(self.dims, features.shape[-1])
        if self.tied:
            widths = [d - c for c, d in zip((0, *self.dims), self.dims, strict=False)]
            blocks = features[:, : self.dims[-1]].split(widths, 1)
            shares = [x @ w.mT for x, w in zip(blocks, self.weight.split(widths, 1), strict=True)]
            return torch.stack(shares).cumsum(0) + self.bias
        logits: Tensor = _NestedLinear.apply(features, self.weight, self.bias, self.dims)
        return logits

    def weight_at(self, dim: int) -> tuple[Tensor, Tensor]:
        """Weight (C, dim) and bias (C,) of the classifier at one of the dimensions."""
        index = self.dims.index(dim)
        if self.tied:
            return self.weight[:, :dim], self.bias
        return self.weight.split(self.dims, 1)[index], self.bias[index]


def normalise(embeddings: Tensor) -> Tensor:
    """Rows divided by their norm, or by 1e-12 where it is smaller; (B, D), float32 at least."""
    normalised: Tensor = _Normalise.apply(at_least_float32(embeddings))
    return normalised


def class_means(points: Tensor, labels: Tensor) -> Tensor:
    """Each of the points (B, D) replaced by the mean of its class, by labels (B,) int64: (B, D).

    One row per point, so that a class counts by its share of the batch and the shape says nothing of the labels.
    """
    same = (labels[:, None] == labels[None]).to(points.dtype)
    return (same / same.sum(dim=1, keepdim=True)) @ points


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy with label smoothing s for K sets of logits at once, (K, B, C), (B,) -> (K,).

    ``-(1 - s) log p_y - (s / C) sum_c log p_c``, averaged over the batch.
    """
    values: Tensor = _SmoothedCrossEntropy.apply(logits, labels, label_smoothing)
    return values


# The three functions below have the gradients that autograd would find, without its intermediate copies: on
# nine prefixes of a 2048-dimensional batch those take longer than the matrix products.


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        scale = norms.clamp_min(1e-12).reciprocal_()
        normalised = x * scale
        # A row that is divided by 1e-12 is not held on the sphere: nothing of its gradient is radial.
        ctx.save_for_backward(normalised, scale, norms >= 1e-12)
        return normalised

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        normalised, scale, held = ctx.saved_tensors
        radial = torch.linalg.vecdot(grad, normalised, dim=1).unsqueeze(1) * held
        result: Tensor = torch.addcmul(grad, normalised, radial, value=-1).mul_(scale)
        return result


class _NestedLinear(torch.autograd.Function):
    """Prefix k of the features times matrix k, all into one (K, B, C) tensor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, dims: tuple[int, ...]) -> Tensor:
        logits = features.new_empty(len(dims), len(features), len(weight))
        for out, d, w, b in zip(logits, dims, weight.split(dims, 1), bias, strict=True):
            torch.addmm(b, features[:, :d], w.mT, out=out)
        ctx.save_for_backward(features, weight)
        ctx.dims = dims
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        grad_features = torch.zeros_like(features)
        grad_weight = torch.empty_like(weight)
        with full_precision(features):
            for g, d, w, grad_w in zip(
                grad, ctx.dims, weight.split(ctx.dims, 1), grad_weight.split(ctx.dims, 1), strict=True
            ):
                torch.mm(g.mT, features[:, :d], out=grad_w)
                grad_features[:, :d].addmm_(g, w)
        return grad_features, grad_weight, grad.sum(1), None


class _SmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        normaliser = logits.logsumexp(-1)
        targets = labels.view(1, -1, 1).expand(len(logits), -1, 1)
        chosen = logits.gather(-1, targets).squeeze(-1)
        values = normaliser - (1 - smoothing) * chosen
        if smoothing:
            values -= smoothing * logits.mean(-1)
        ctx.save_for_backward(logits, normaliser, targets)
        ctx.smoothing = smoothing
        return values.mean(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, normaliser, targets = ctx.saved_tensors
        smoothing = ctx.smoothing
        share = logits.sub(normaliser.unsqueeze(-1)).exp_().sub_(smoothing / logits.shape[-1])
        share.scatter_add_(-1, targets, share.new_full((1, 1, 1), smoothing - 1).expand(targets.shape))
        return share.mul_((grad / logits.shape[1]).view(-1, 1, 1)), None, None
