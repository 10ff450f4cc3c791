r"""Entropic optimal transport between the nested prefixes of one batch of embeddings.

For embeddings :math:`e_1, \dots, e_n` and dimensions :math:`d_1 < \dots < d_K` the Matryoshka-Wasserstein
objective sums, over consecutive dimensions, the debiased Sinkhorn divergence of two uniform clouds

.. math::
    S_k = \mathrm{OT}_\varepsilon(X_k, Y_k) - \tfrac12 \mathrm{OT}_\varepsilon(X_k, X_k)
          - \tfrac12 \mathrm{OT}_\varepsilon(Y_k, Y_k),

:math:`X_k = \{(e_i[:d_k], 0)\}` and :math:`Y_k = \{(e_i[:d_k], \sqrt\beta\, e_i[d_k:d_{k+1}])\}`. The
conventions are those of GeomLoss: the ground cost is **half** the squared distance, :math:`c(x, y) = |x -
y|^2 / 2`, and the entropy, relative to the product of the marginals, has the strength :math:`\varepsilon =
\mathrm{blur}^2`.

**A cloud against itself is all that is needed.** The residual coordinates enter :math:`c(x_i, y_j)` through
:math:`\beta |e_j[d_k:d_{k+1}]|^2 / 2` alone, which does not depend on :math:`i`; the rest is the cost of
:math:`X_k` with itself. Hence :math:`\mathrm{OT}_\varepsilon(X_k, Y_k) = \mathrm{OT}_\varepsilon(X_k, X_k) +
\tfrac\beta2 \overline{|e[d_k:d_{k+1}]|^2}` and

.. math::
    S_k = \tfrac12 \bigl[ \mathrm{OT}_\varepsilon(X_k, X_k) - \mathrm{OT}_\varepsilon(Y_k, Y_k)
          + \beta\, \overline{|e[d_k:d_{k+1}]|^2} \bigr]. \qquad (1)

For :math:`\beta = 1`, :math:`Y_k = X_{k+1}` and the sum over k telescopes to two self-transport problems. For
any other :math:`\beta` there are :math:`2(K-1)`, whose Gram matrices are linear combinations of the K Gram
matrices of the blocks :math:`e[d_{b-1}:d_b]`.

**The scaling of a cloud against itself is tame.** The kernel :math:`k_{ij} = \exp(-c_{ij}/\varepsilon)` is
positive semi-definite with a unit diagonal, and the plan is :math:`\pi_{ij} = u_i k_{ij} u_j / n^2` with one
scaling u. Its marginal condition :math:`u_i (k u)_i = n` gives :math:`u_i^2 \le n` (the diagonal term alone)
and with it :math:`(ku)_i \le n^{3/2}`, so that

.. math:: n^{-1/2} \le u_i \le n^{1/2} \qquad (2)

whatever :math:`\varepsilon`: float32 never leaves its range, and no log-domain variant is needed, however small the
blur. In :math:`h = \log u` the residual :math:`r = h + \log(k e^h / n)` has the Jacobian :math:`I + A`, A a stochastic
matrix similar to a positive semi-definite one, so the spectrum of :math:`I + A` lies in [1, 2] at every h and for every
:math:`\varepsilon`. The plain averaged iteration (relaxation 1/2) therefore contracts by 1/2 per step, relaxation 2/3
by 1/3, and the second-order Richardson iteration used here by :math:`(\sqrt2 - 1)/(\sqrt2 + 1) = 0.172`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wasskit.ot.nesting import check_dims
from wasskit.ot.precision import at_least_float32, full_precision

# Optimal step and momentum for a spectrum in [l, L] = [1, 2] (Polyak 1964): 4 / (sqrt L + sqrt l)^2 and
# ((sqrt L - sqrt l) / (sqrt L + sqrt l))^2.
RICHARDSON_STEP = 4 / (math.sqrt(2) + 1) ** 2
RICHARDSON_MOMENTUM = ((math.sqrt(2) - 1) / (math.sqrt(2) + 1)) ** 2

# Enough steps for the marginals to reach rounding accuracy: 0.172^9 = 1e-7, 0.172^20 = 5e-16.
_STEPS = {torch.float32: 9, torch.float64: 20}

# exp(-60) = 9e-27 vanishes beside the unit diagonal in either precision; clamping there keeps denormal
# numbers, which are a hundred times slower, out of the kernel and of the plan.
_LOWEST_EXPONENT = -60.0


def nested_sinkhorn_divergences(
    embeddings: Tensor,
    dims: Sequence[int],
    *,
    beta: float = 1.0,
    blur: float = 0.5,
    steps: int | None = None,
    reduction: Literal["none", "sum"] = "none",
) -> Tensor:
    r"""Converged debiased Sinkhorn divergences (1) between consecutive nested prefixes of one batch.

    Args:
        embeddings: (n, D) floating point, one point per row, used as they are (normalise them first, over the
            full width). float16 and bfloat16 are computed in float32.
        dims: :math:`d_1 < \dots < d_K \le D`, the nested dimensions.
        beta: weight :math:`\beta \ge 0` of the residual coordinates in the cost.
        blur: square root of the entropic strength :math:`\varepsilon`, in the units of the embeddings.
        steps: Sinkhorn steps; by default enough for the rounding accuracy of the precision (see
            :func:`marginal_errors`).
        reduction: ``"none"`` for the K - 1 values, ``"sum"`` for their sum, which for ``beta = 1`` costs two
            self-transport problems instead of K.

    Returns:
        (K - 1,) or a scalar, differentiable once with respect to the embeddings. The gradient is that of the
        converged value (envelope theorem): with :math:`\pi_X, \pi_Y` the plans of :math:`X_k, Y_k` with
        themselves, :math:`\partial S_k / \partial e[:d_k] = (\pi_Y - \pi_X)\, e[:d_k]` and
        :math:`\partial S_k / \partial e[d_k:d_{k+1}] = \beta\, \pi_Y\, e[d_k:d_{k+1}]`.

    Raises:
        ValueError: the dimensions are not strictly increasing positive integers that fit the embeddings, or a
            parameter is out of range.

    Example:
        >>> import torch, wasskit
        >>> embeddings = torch.nn.functional.normalize(torch.randn(32, 16)).requires_grad_()
        >>> divergences = wasskit.nested_sinkhorn_divergences(embeddings, (4, 8, 16))
        >>> divergences.shape
        torch.Size([2])
        >>> divergences.sum().backward()
    """
    checked = check_dims(dims, embeddings.shape[-1])
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings must be a non-empty (n, D) matrix, not of shape {tuple(embeddings.shape)}")
    if not (math.isfinite(blur) and blur > 0):
        raise ValueError(f"blur must be positive, not {blur}")
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be zero or positive, not {beta}")
    if reduction not in ("none", "sum"):
        raise ValueError(f"reduction must be 'none' or 'sum', not {reduction!r}")
    x = at_least_float32(embeddings)
    problems = _nested_problems(checked, beta, telescope=reduction == "sum")
    if not problems.outputs:
        values = x.new_zeros(0)
    else:
        values = _NestedDivergences.apply(x, problems, blur**2, _STEPS[x.dtype] if steps is None else steps)
    return values.sum() if reduction == "sum" else values


def self_kernel(points: Tensor, blur: float) -> Tensor:
    r"""Gibbs kernel :math:`\exp(-|x_i - x_j|^2 / 2\,\mathrm{blur}^2)` of clouds with themselves, (..., n, d)
    -> (..., n, n).
    """
    with full_precision(points):
        return _kernel(points @ points.mT / blur**2)


def self_scaling(kernel: Tensor, steps: int | None = None) -> Tensor:
    r"""Logarithm of the scaling that makes the plan of each cloud with itself uniform.

    Args:
        kernel: (..., n, n) symmetric, positive semi-definite, with a unit diagonal.
        steps: number of steps; by default 9 in float32 and 20 in float64.

    Returns:
        (..., n) :math:`h = \log(u / \sqrt n)`, so that the plan is :math:`\pi_{ij} = e^{h_i} k_{ij} e^{h_j} /
        n` with both marginals 1/n up to :func:`marginal_errors`.
    """
    n = kernel.shape[-1]
    scaling, _ = _scale(kernel.reshape(-1, n, n), _STEPS[kernel.dtype] if steps is None else steps)
    return scaling.view(kernel.shape[:-1])


def marginal_errors(kernel: Tensor, scaling: Tensor) -> Tensor:
    r"""Largest relative error :math:`\max_i |n \sum_j \pi_{ij} - 1|` of the plan's marginal, (..., n, n),
    (..., n) -> (...).
    """
    weights = scaling.exp()
    marginal = weights * (weights.unsqueeze(-2) @ kernel).squeeze(-2)
    return (marginal - 1).abs().amax(-1)


def self_transport_costs(kernel: Tensor, scaling: Tensor, blur: float) -> Tensor:
    r"""Entropic cost :math:`\mathrm{OT}_\varepsilon` of each cloud with itself, (..., n, n), (..., n) -> (...).

    The dual value :math:`\varepsilon\, [\, 2\,\overline{\log u} + 1 - n^{-2} \sum_{ij} u_i k_{ij} u_j ]`,
    whose error is the square of the marginal error.
    """
    weights = scaling.exp()
    return _dual_values(scaling, (weights.unsqueeze(-2) @ kernel).squeeze(-2), blur**2)


class _Problems(NamedTuple):
    """The divergences asked for, in terms of self-transport problems, and these in terms of block Gram matrices.

    Output t is ``sum_p combine[t][p] OT_p + sum_b residual[t][b] mean |e_b|^2 / 2`` and problem p has the
    Gram matrix ``sum_b grams[p][b] e_b e_b^T``, for e_b the columns of block b.
    """

    widths: tuple[int, ...]
    grams: tuple[tuple[float, ...], ...]
    combine: tuple[tuple[float, ...], ...]
    residual: tuple[tuple[float, ...], ...]

    @property
    def outputs(self) -> int:
        return len(self.combine)


def _nested_problems(dims: tuple[int, ...], beta: float, *, telescope: bool) -> _Problems:
    # With Y_k = X_{k+1} the sum of (OT(X_k) - OT(Y_k)) / 2 telescopes: the first and the last problem remain.
    if beta == 1 and telescope and len(dims) > 2:
        dims = (dims[0], dims[-1])
    count = len(dims)
    widths = tuple(d - c for c, d in zip((0, *dims), dims, strict=False))
    prefixes = [tuple(float(b <= k) for b in range(count)) for k in range(count)]
    residual = tuple(tuple(beta * (b == k + 1) for b in range(count)) for k in range(count - 1))
    if beta == 1:  # Y_k is X_{k+1}
        grams = prefixes
        combine = tuple(tuple(0.5 * (p == k) - 0.5 * (p == k + 1) for p in range(count)) for k in range(count - 1))
    else:
        stretched = [tuple(x + r for x, r in zip(prefixes[k], residual[k], strict=True)) for k in range(count - 1)]
        grams = prefixes[:-1] + stretched
        combine = tuple(
            tuple(0.5 * (p == k) - 0.5 * (p == k + count - 1) for p in range(2 * count - 2)) for k in range(count - 1)
        )
    return _Problems(widths, tuple(grams), combine, residual)


@functools.lru_cache(maxsize=64)
def _matrices(
    problems: _Problems, device: torch.device, dtype: torch.dtype, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """``grams``, ``combine`` and, in the wider dtype, ``residual`` on the device, made once: each copy is a wait."""
    with torch.inference_mode(False):
        rows = ((problems.grams, dtype), (problems.combine, dtype), (problems.residual, wide))
        mixing, combine, residual = (torch.tensor(row, dtype=kind, device=device) for row, kind in rows)
    return mixing, combine, residual


class _NestedDivergences(torch.autograd.Function):
    """Divergences of one batch: (n, D) -> (outputs,). The solver is not differentiated: its plans are the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, problems: _Problems, epsilon: float, steps: int) -> Tensor:
        n = len(x)
        blocks = x[:, : sum(problems.widths)].split(problems.widths, dim=1)
        grams = x.new_empty(len(blocks), n, n)
        with full_precision(x):  # a Gram error of 1e-3 would be divided by epsilon and exponentiated
            for gram, block in zip(grams, blocks, strict=True):
                torch.mm(block, block.mT, out=gram)
            squares = grams.diagonal(dim1=1, dim2=2).mean(1)
            # The terms are of the order of eps log n, a divergence may be far smaller: their sum costs nothing in
            # float64, and in float32 would cost its digits.
            wide = torch.float32 if x.device.type == "mps" else torch.float64
            mixing, combine, residual = _matrices(problems, x.device, x.dtype, wide)
            # The small matrix is divided by epsilon, not the (P, n, n) products.
            kernel = _kernel((mixing / epsilon @ grams.view(len(blocks), -1)).view(-1, n, n))
            scaling, smoothed = _scale(kernel, steps)
            values = combine.to(wide) @ _dual_values(scaling.to(wide), smoothed.to(wide), epsilon)
            values += residual @ squares.to(wide) / 2
        ctx.save_for_backward(x, kernel, scaling, combine, mixing)
        ctx.widths = problems.widths
        return values.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor, None, None, None]:
        x, kernel, scaling, combine, mixing = ctx.saved_tensors
        n = len(x)
        used = sum(ctx.widths)
        with full_precision(x):
            # dOT_p / dGram_p = I/n - plan_p; the multiples of I/n cancel against the residual term of (1),
            # block by block. The factor 2 is that of d(e e^T) = 2 (.) e for a symmetric cofactor.
            weights = scaling.exp()
            plans = kernel * (weights * (-2 / n))[:, :, None] * weights[:, None, :]
            laplacians = ((grad_values @ combine)[:, None] * mixing).mT @ plans.view(len(plans), -1)
            grad = torch.empty_like(x) if used == x.shape[1] else torch.zeros_like(x)
            columns = zip(x[:, :used].split(ctx.widths, 1), grad[:, :used].split(ctx.widths, 1), strict=True)
            for laplacian, (block, grad_block) in zip(laplacians.view(-1, n, n), columns, strict=True):
                torch.mm(laplacian, block, out=grad_block)
        return grad, None, None, None


def _kernel(scaled_gram: Tensor) -> Tensor:
    """exp(-c/eps) from Gram matrices divided by eps, in place; exactly one on the diagonal."""
    half_squares = scaled_gram.diagonal(dim1=-2, dim2=-1) / 2
    exponent = scaled_gram.sub_(half_squares.unsqueeze(-1)).sub_(half_squares.unsqueeze(-2))
    return exponent.clamp_(_LOWEST_EXPONENT, 0).exp_()


def _scale(kernel: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Solve h + log(k e^h) = 0 for (P, n, n) kernels; also returns k e^h at the solution.

    The start, exp(h) = (k 1)^(-1/2), is the solution for a constant kernel as well as for the identity, that
    is for a very large and a very small blur.
    """
    scaling = kernel.sum(-1).log_().mul_(-0.5)
    previous = scaling
    # A row vector times a symmetric matrix: several times faster than the column form on CPUs.
    smoothed = torch.bmm(scaling.exp().unsqueeze(1), kernel).squeeze(1)
    for _ in range(steps):
        following = (1 - RICHARDSON_STEP + RICHARDSON_MOMENTUM) * scaling - RICHARDSON_STEP * smoothed.log_()
        previous, scaling = scaling, following.sub_(previous, alpha=RICHARDSON_MOMENTUM)
        smoothed = torch.bmm(scaling.exp().unsqueeze(1), kernel).squeeze(1)
    return scaling, smoothed


def _dual_values(scaling: Tensor, smoothed: Tensor, epsilon: float) -> Tensor:
    n = scaling.shape[-1]
    marginal = (scaling + smoothed.log()).exp()
    return epsilon * (2 * scaling.mean(-1) + math.log(n) + 1 - marginal.mean(-1))
