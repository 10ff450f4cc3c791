"""L_U, the logarithm of the mean Gaussian potential of features (Wang and Isola, 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wasskit.distributed.collectives import gather, reduce_sum
from wasskit.distributed.group import rank, world_size
from wasskit.errors import UserError
from wasskit.evaluation.rows import shape_of, unit_rows, wide
from wasskit.ot.known_gradient import known_gradient
from wasskit.ot.precision import full_precision

_STEEPEST = 20.0
"""The t up to which exp(-4 t), the least potential of unit rows, is a float32 number with all its digits: exp(-87)."""


def gaussian_uniformity(
    features: Tensor, t: float = 2.0, *, normalise: bool = True, block: int | None = None, sharded: bool = False
) -> Tensor:
    """L_U = log mean_{i<j} exp(-t |z_i - z_j|^2), the logarithm of the mean Gaussian potential.

    (Wang and Isola 2020.) ``features`` (N, m), N >= 2, ``UserError`` otherwise. Pairs are visited in
    square blocks of the upper triangle, ``block`` rows at a time (default 1024 on the CPU, 8192 on a GPU):
    the memory is that of one block, never N x N. Products, exponentials and the sums of a block's rows are
    taken in float32 (float64 for float64 features), the sum of all rows in float64. The gradient is found in
    the same sweep. ``sharded``: all ranks hold the same features and share the blocks among them; value only.
    Returns float64 for float64 features, else float32; 0 where all features are one point.

    Example:
        >>> import torch, wasskit
        >>> wasskit.gaussian_uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # log exp(-2 |z - z'|^2)
        tensor(-8.)
    """
    n, _ = shape_of(features)
    if block is not None and block < 1:
        raise UserError(f"L_U goes through blocks of at least one row, not of {block}.")
    z = wide(features)
    if n < 2:
        raise UserError("L_U averages over pairs of features, but there is only one: use a batch of at least 2.")
    if normalise:
        z = unit_rows(z)
    size = block or (1024 if z.device.type == "cpu" else 8192)
    bounded = normalise and abs(t) <= _STEEPEST

    def compute(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        with full_precision(x):
            return _log_potential(x, t, size, bounded=bounded, with_gradient=with_gradient)

    if sharded and world_size() > 1:
        with torch.no_grad(), full_precision(z):
            log_sum, _ = _log_potential(z, t, size, bounded=bounded, with_gradient=False, share=(rank(), world_size()))
    else:
        log_sum = known_gradient(compute, z)
    return (log_sum - math.log(n * (n - 1) / 2)).to(features.device, z.dtype)


def _log_potential(
    z: Tensor, t: float, block: int, *, bounded: bool, with_gradient: bool, share: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor | None]:
    """log sum_{i<j} exp(-t |z_i - z_j|^2) as a float64 scalar, and its gradient (N, m) on request.

    -t |a - b|^2 = 2 t <a, b> - t |a|^2 - t |b|^2 is one inner product of vectors longer by two entries, so a
    block of exponents is one matrix product. With ``share`` = (r, R) only every R-th block is taken, and the
    sum is reduced over ranks.
    """
    n = len(z)
    if not bounded:  # what all rows share changes no distance, and its square would cost the digits of all
        z = z - z.mean(dim=0)
    minus = -t * z.square().sum(dim=1, keepdim=True)
    starts = [(i, j) for i in range(0, n, block) for j in range(i, n, block)][share[0] :: share[1]]
    buffer = z.new_empty(min(block, n) ** 2)

    def exponents(i: int, j: int) -> Tensor:
        a, b = minus[i : i + block], minus[j : j + block]
        rows = torch.cat([2 * t * z[i : i + block], a, torch.ones_like(a)], dim=1)
        columns = torch.cat([z[j : j + block], torch.ones_like(b), b], dim=1)
        out = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
        return torch.mm(rows, columns.mT, out=out)

    # Of unit rows no exponent is below -4 t; where that is far, the largest is taken out so that no sum underflows.
    top = z.new_zeros(())
    if not bounded:
        top = z.new_full((), -torch.inf)
        for i, j in starts:
            e = exponents(i, j)
            if i == j:
                e.masked_fill_(torch.ones_like(e, dtype=torch.bool).tril_(), -torch.inf)
            top = torch.maximum(top, e.max())
        if share[1] > 1:
            top = gather(top[None]).max()

    total = torch.zeros((), dtype=torch.float64, device=z.device)
    gradient = torch.zeros_like(z) if with_gradient else None
    for i, j in starts:
        weights = exponents(i, j)
        if not bounded:
            weights -= top
        weights.exp_()
        if i == j:
            weights.triu_(1)
        # A row of a block is short enough for float32; in float64 the sum would cost more than the exponentials.
        of_rows = weights.sum(dim=1)
        total += of_rows.sum(dtype=torch.float64)
        if gradient is not None:
            a, b = z[i : i + block], z[j : j + block]
            gradient[i : i + block] += weights @ b - of_rows[:, None] * a
            gradient[j : j + block] += weights.mT @ a - weights.sum(dim=0)[:, None] * b
    if share[1] > 1:
        total = reduce_sum(total)
    if gradient is not None:
        gradient *= 2 * t / total
    return total.log() + top.double(), gradient
