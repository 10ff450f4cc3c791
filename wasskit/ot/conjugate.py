"""Convex conjugates of strongly convex potentials, solved for a whole batch of points at once.

``psi*(y) = max_x <x, y> - psi(x)`` is attained where ``grad psi(x) = y``: its maximiser is the inverse of the
map ``grad psi`` at ``y``. An amortised inverse (the gradient of a second network) gives the start; a few
steps of Newton's method or of L-BFGS make it exact, as proposed for training and evaluation by Amos (2023,
"On amortizing convex conjugates").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wasskit.ot.precision import full_precision

Method = Literal["newton", "lbfgs"]


class Conjugate(NamedTuple):
    """Maximisers (B, D), ``psi*(y)`` (B), the residuals ``|grad psi(x) - y|`` (B), and the number of evaluations."""

    point: Tensor
    value: Tensor
    residual: Tensor
    evaluations: int


@torch.no_grad()
def solve_conjugate(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
    start: Tensor,
    *,
    hessian: Callable[[Tensor], Tensor] | None = None,
    method: Method = "newton",
    evaluations: int = 50,
    tolerance: float = 0.0,
    memory: int = 8,
) -> Conjugate:
    """Solve ``grad psi(x) = y`` for every row of ``y`` by minimising the strongly convex ``psi(x) - <x, y>``.

    Every evaluation of the potential serves all points: those whose trial step is accepted take it and get a
    new direction, the others halve theirs. A step is accepted when the function has decreased sufficiently
    (Armijo), or when the slope along it is still negative, which for a convex function proves the decrease
    even where the values differ only by rounding.

    Args:
        value_and_gradient: ``x`` (B, D) to ``psi(x)`` (B) and ``grad psi(x)`` (B, D).
        y: points (B, D) to invert the map at.
        start: first guess of ``x`` (B, D).
        hessian: ``x`` to ``grad^2 psi(x)`` (B, D, D); needed by ``newton``.
        method: ``newton`` for few dimensions, ``lbfgs`` for many.
        evaluations: how often the potential is evaluated at most.
        tolerance: stop once every residual is below it; 0 never looks, so that nothing waits for the device.
        memory: number of pairs that L-BFGS remembers.

    All of it is computed in the precision of ``y``, float32 at least, whatever the autocast: a residual of eight bits
    says nothing of the step to take. The best point seen is returned for every row, never worse than ``start``.
    """
    if method == "newton" and hessian is None:
        raise ValueError("Newton's method needs the Hessian of the potential")
    y = y if y.dtype == torch.float64 else y.float()
    with full_precision(y):
        return _solve(
            value_and_gradient, y, start.to(y.dtype), hessian if method == "newton" else None, evaluations,
            tolerance, memory,
        )  # fmt: skip


def _solve(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
    start: Tensor,
    hessian: Callable[[Tensor], Tensor] | None,
    evaluations: int,
    tolerance: float,
    memory: int,
) -> Conjugate:
    """By Newton's method where there is a Hessian, else by L-BFGS."""

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = value_and_gradient(x)
        return value - (x * y).sum(1), gradient - y

    x = start
    f, g = objective(x)
    residual = g.norm(dim=1)
    best, best_f, best_residual = x, f, residual
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    used = 1
    direction = newton_direction(hessian, x, g) if hessian is not None else -g
    step = torch.ones_like(f)
    slack = 4 * torch.finfo(f.dtype).eps
    while used < evaluations:
        if tolerance > 0 and bool((best_residual <= tolerance).all()):
            break
        trial = x + step.unsqueeze(1) * direction
        f_trial, g_trial = objective(trial)
        used += 1
        slope = (g * direction).sum(1)
        slope_trial = (g_trial * direction).sum(1)
        decreased = f_trial <= f + 1e-4 * step * slope + slack * f.abs()
        accepted = torch.isfinite(f_trial) & (decreased | (slope_trial <= 0))
        column = accepted.unsqueeze(1)

        displacement = torch.where(column, trial - x, 0.0)
        change = torch.where(column, g_trial - g, 0.0)
        x, g = torch.where(column, trial, x), torch.where(column, g_trial, g)
        f = torch.where(accepted, f_trial, f)
        residual = g.norm(dim=1)
        better = residual < best_residual
        best = torch.where(better.unsqueeze(1), x, best)
        best_f, best_residual = torch.where(better, f, best_f), torch.where(better, residual, best_residual)

        if hessian is not None:
            fresh = newton_direction(hessian, x, g)
        else:
            pairs = [*pairs, lbfgs_pair(displacement, change)][-memory:]
            fresh = lbfgs_direction(pairs, g)
        direction = torch.where(column, fresh, direction)
        step = torch.where(accepted, torch.ones_like(step), 0.5 * step)
    return Conjugate(best, -best_f, best_residual, used)


def newton_direction(hessian: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    factor, _ = torch.linalg.cholesky_ex(hessian(x))
    direction = torch.cholesky_solve(-g.unsqueeze(2), factor).squeeze(2)
    # Where rounding has made the Hessian indefinite, or the step useless, the gradient still descends.
    usable = torch.isfinite(direction).all(1) & ((direction * g).sum(1) < 0)
    return torch.where(usable.unsqueeze(1), direction, -g)


def lbfgs_pair(displacement: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step (B, D), the change of the gradient along it, and the inverse of their product, 0 where it
    is not positive."""
    curvature = (displacement * change).sum(1)
    positive = curvature > 0
    return displacement, change, torch.where(positive, 1.0 / curvature.where(positive, 1.0), 0.0)


def lbfgs_direction(pairs: list[tuple[Tensor, Tensor, Tensor]], g: Tensor) -> Tensor:
    """The two-loop recursion (Nocedal and Wright, algorithm 7.4), row by row; a pair with ``rho = 0`` is
    skipped in its row."""
    q = g
    alphas: list[Tensor] = []
    scale = torch.ones_like(g[:, 0])
    for _, change, rho in pairs:
        scale = torch.where(rho > 0, 1.0 / (rho * change.square().sum(1)).clamp_min(torch.finfo(g.dtype).tiny), scale)
    for s, change, rho in reversed(pairs):
        alpha = rho * (s * q).sum(1)
        alphas.append(alpha)
        q = q - alpha.unsqueeze(1) * change
    q = q * scale.unsqueeze(1)
    for (s, change, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (change * q).sum(1)
        q = q + (alpha - beta).unsqueeze(1) * s
    return -q
