"""The losses of MoCo v2, BYOL, Barlow Twins and Zero-CL, and the uniformity terms that are added to them.

All take projections (B, D) of two views of the same images, row by row, and are computed in float32 at least,
whatever the autocast. Those that couple the samples of a batch (Barlow Twins, Zero-CL, the uniformity terms)
gather the projections of all ranks with gradients; the others are means over a rank's equal share. Either
way, averaging the ranks' gradients gives the gradient of one rank with the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.evaluation.uniformity import gaussian_uniformity, w2_uniformity
from wasskit.ot.known_gradient import known_gradient
from wasskit.ot.polar import Method, polar_factor
from wasskit.ot.precision import at_least_float32, full_precision

ZeroCl = Literal["feature", "instance", "both"]
Solver = Literal["auto", "eigh", "polar"]

_EPS = 1e-5
_ZCA_RIDGE = 0.01

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def in_full_precision(loss: Loss) -> Loss:
    """Make a loss leave autocast and see half-precision tensors in float32."""

    def raised(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    @functools.wraps(loss)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with full_precision(first):
            return loss(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return cast(Loss, wrapped)


# --- BYOL ---------------------------------------------------------------------------------------------------


@in_full_precision
def byol_loss(prediction1: Tensor, prediction2: Tensor, target1: Tensor, target2: Tensor) -> Tensor:
    """Predictions p and target projections t of either view, (B, D) (Grill et al. 2020, eq. 2).

        2 (1 - mean cos(t1, p2)) + 2 (1 - mean cos(t2, p1)),    between 0 and 8

    No gradient flows into the targets.
    """
    crossed = F.cosine_similarity(target1.detach(), prediction2)
    reverse = F.cosine_similarity(target2.detach(), prediction1)
    return 2 * (1 - crossed.mean()) + 2 * (1 - reverse.mean())


# --- MoCo v2 ------------------------------------------------------------------------------------------------


@in_full_precision
def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """InfoNCE, each query against its key and the queue (He et al. 2020, eq. 1).

        mean_i -log [ e^{q_i k_i / T} / (e^{q_i k_i / T} + sum_j e^{q_i n_j / T}) ]

    Unit queries and keys (B, D), negatives n in the unit ``queue`` (K, D); gradient for the queries alone.
    """
    key, negatives = key.detach(), queue.detach().to(query.dtype)

    def compute(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """The mean and its gradient, sum_j p_ij n_j - (1 - p_i) k_i over B T, p the softmax. Scores are held once."""
        positive = (x * key).sum(dim=1, keepdim=True) / temperature
        scores = torch.mm(x, negatives.mT).div_(temperature)
        largest = torch.maximum(scores.amax(dim=1, keepdim=True), positive)
        weights = scores.sub_(largest).exp_()
        agreement = (positive - largest).exp()
        total = weights.sum(dim=1, keepdim=True) + agreement
        value = (total.log() + largest - positive).mean()
        if not with_gradient:
            return value, None
        pulled = torch.mm(weights, negatives).addcmul_(key, agreement - total)
        return value, pulled.div_(total * (temperature * len(x)))

    return known_gradient(compute, query)


def moco_loss(
    query1: Tensor, query2: Tensor, key1: Tensor, key2: Tensor, queue: Tensor, temperature: float = 0.2
) -> Tensor:
    """The symmetric loss: InfoNCE of the first view's queries with the second's keys, plus the reverse."""
    return info_nce(query1, key2, queue, temperature) + info_nce(query2, key1, queue, temperature)


class KeyQueue(nn.Module):
    """The latest keys of the key encoder, (length, dim): a ring buffer that every rank holds whole.

    Keys are stored as they come, of unit length. It starts from random directions, a function of the seed.
    Keys and position are buffers, so they are part of every checkpoint.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, length: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        start = torch.randn(length, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("keys", F.normalize(start))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.keys)

    @torch.no_grad()
    def push(self, *keys: Tensor) -> None:
        """Replace the oldest keys by those of the batch: all ranks' of the first view, then of the second.

        Of a batch with more keys than the queue holds, the latest stay. The keys are a new tensor, so that a loss of
        the former ones can still be differentiated.
        """
        joined = torch.cat([gather_with_grad(key.to(self.keys.dtype)) for key in keys])
        numbers = torch.arange(max(0, len(joined) - len(self)), len(joined), device=joined.device)
        self.keys = self.keys.index_copy(0, (self.position + numbers) % len(self), joined[-len(self) :])
        self.position.add_(len(joined)).remainder_(len(self))


# --- Barlow Twins -------------------------------------------------------------------------------------------


@in_full_precision
def barlow_twins_loss(first: Tensor, second: Tensor, off_diagonal: float = 0.08) -> Tensor:
    """Projections (B, D) of two views (Zbontar et al. 2021, eqs. 1 and 2).

        sum_i (1 - c_ii)^2 + off_diagonal * sum_{i != j} c_ij^2

    c (D, D) is the cross-correlation of the features over the batch of all ranks.
    """

    def compute(views: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of both views, one below the other, and its gradient: 2 z' w^T / N and 2 z w / N in those of unit
        variance, w the correlations times their weights.
        """
        count = len(views) // 2
        (z, scale), (other, other_scale) = map(_standardised, views.split(count))
        correlation = torch.addmm(z.new_zeros(1), z.mT, other, beta=0, alpha=1 / count)
        diagonal = correlation.diagonal()
        missing = diagonal - 1
        squares = torch.linalg.vector_norm(correlation, dim=1).square().sum()
        value = missing.square().sum() + off_diagonal * (squares - diagonal.square().sum())
        if not with_gradient:
            return value, None
        correlation.mul_(2 * off_diagonal / count)
        diagonal.copy_(missing * (2 / count))
        back = torch.cat([other @ correlation.mT, z @ correlation])
        for pulled, unit, inverse in zip(back.split(count), (z, other), (scale, other_scale), strict=True):
            # The mean over the batch is that of the other view's columns: 0.
            pulled.addcmul_(unit, (pulled * unit).mean(dim=0), value=-1).mul_(inverse)
        return value, back

    return known_gradient(compute, torch.cat([gather_with_grad(first), gather_with_grad(second)]))


def _standardise(x: Tensor) -> Tensor:
    """Columns of (N, m) to mean 0 and biased variance 1 (up to 1e-5, so that a constant column becomes 0)."""
    return _standardised(x)[0]


def _standardised(x: Tensor) -> tuple[Tensor, Tensor]:
    """`_standardise`, and the factors (m,)."""
    centred = x - x.mean(dim=0)
    # On the CPU `torch.var` goes down the columns number by number, at ten times the time of this.
    scale = (centred.square().mean(dim=0) + _EPS).rsqrt()
    return centred * scale, scale


# --- Zero-CL ------------------------------------------------------------------------------------------------


@in_full_precision
def zero_cl_feature_loss(first: Tensor, second: Tensor, solver: Solver = "auto") -> Tensor:
    """sum_i (1 - c_ii)^2, c the cross-correlation of features whitened over the batch (Zhang et al. 2022)."""
    return _whitened_agreement(gather_with_grad(first), gather_with_grad(second), solver)


@in_full_precision
def zero_cl_instance_loss(first: Tensor, second: Tensor, solver: Solver = "auto") -> Tensor:
    """The same with instances whitened over the features: that of the transposed batch."""
    return _whitened_agreement(gather_with_grad(first).mT, gather_with_grad(second).mT, solver)


def zero_cl_loss(first: Tensor, second: Tensor, kind: ZeroCl = "feature", solver: Solver = "auto") -> Tensor:
    """Zero-CL along features, along instances, or the sum of both."""
    if kind == "feature":
        return zero_cl_feature_loss(first, second, solver)
    if kind == "instance":
        return zero_cl_instance_loss(first, second, solver)
    return zero_cl_feature_loss(first, second, solver) + zero_cl_instance_loss(first, second, solver)


def _whitened_agreement(first: Tensor, second: Tensor, solver: Solver) -> Tensor:
    first, second = _standardise(first), _standardise(second)
    first, second = first @ zca_matrix(first, solver), second @ zca_matrix(second, solver)
    agreement = (first * second).mean(dim=0)
    return (1 - agreement).square().sum()


@torch.no_grad()
def zca_matrix(x: Tensor, solver: Solver = "auto") -> Tensor:
    """U diag((s + 0.01)^{-1/2}) U^T for the second moment U diag(s) U^T = x^T x / N of x (N, m); no gradient.

    It is (x^T x / N + 0.01 I)^{-1/2}, and so, up to the factor sqrt(0.01), the lower block of the polar
    factor of [x / sqrt N; 0.1 I]: the form that needs only matrix products (``solver="polar"``).
    """
    n, m = x.shape
    if _method(solver, x) == "eigh":
        eigenvalues, vectors = torch.linalg.eigh(x.mT @ x / n)
        matrix: Tensor = (vectors * (eigenvalues.clamp_min(0) + _ZCA_RIDGE).rsqrt()) @ vectors.mT
        return matrix
    root = _ZCA_RIDGE**0.5
    stacked = torch.cat([x.mT / n**0.5, root * torch.eye(m, dtype=x.dtype, device=x.device)], dim=1)
    lower: Tensor = polar_factor(stacked)[:, n:] / root
    return lower


# --- Uniformity terms ---------------------------------------------------------------------------------------


class W2UniformityLoss(nn.Module):
    """Wasserstein-2 distance of the normalised features to N(0, I/m): see `wasskit.w2_uniformity`.

    Called with one or several matrices of features (B, m), say the projections of two views, it takes them
    together, over all ranks. Add it to the loss of a self-supervised method with a weight of its own.

    Args:
        ridge: multiple of the identity added to the covariance (published with MoCo v2: 1e-4).
        solver: ``"eigh"`` (eigenvalues) or ``"polar"`` (matrix products alone), both in float64, or ``"auto"``:
            polar on a GPU, eigh elsewhere and for float64 features, where polar misses directions below 3.4e-8
            of the largest.

    Example:
        >>> import torch, wasskit
        >>> first, second = torch.randn(2, 128, 16).requires_grad_()
        >>> wasskit.W2UniformityLoss()(first, second).backward()
    """

    def __init__(self, ridge: float = 0.0, solver: Solver = "auto") -> None:
        super().__init__()
        self.ridge = ridge
        self.solver: Solver = solver

    def forward(self, *features: Tensor) -> Tensor:
        """A scalar, float64 for float64 features and else float32, of matrices (B, m) of any floating dtype.

        Raises:
            UserError: features that are no matrix of at least one row and column.
        """
        joined = torch.cat([gather_with_grad(x) for x in features])
        return w2_uniformity(joined, ridge=self.ridge, method=_method(self.solver, joined))

    def extra_repr(self) -> str:
        return f"ridge={self.ridge}, solver={self.solver}"


class LogUniformityLoss(nn.Module):
    """L_U of the normalised features of all views and ranks together: see `wasskit.gaussian_uniformity`."""

    def __init__(self, t: float = 2.0) -> None:
        super().__init__()
        self.t = t

    def forward(self, *features: Tensor) -> Tensor:
        return gaussian_uniformity(torch.cat([gather_with_grad(x) for x in features]), self.t)

    def extra_repr(self) -> str:
        return f"t={self.t}"


def uniformity_weight(epoch: int, epochs: int, start: float, end: float) -> float:
    """Weight of the uniformity term in epoch 1, ..., ``epochs``: linear, reaching ``end`` in the last.

    As published, the step from ``start`` is taken before the first epoch: start - (start - end) epoch / epochs.
    """
    return start - (start - end) * epoch / epochs


def _method(solver: Solver, x: Tensor) -> Method:
    if solver == "auto":
        return "polar" if x.device.type == "cuda" and x.dtype != torch.float64 else "eigh"
    return solver
