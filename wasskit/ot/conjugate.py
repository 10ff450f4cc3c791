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

from wasskit.ot.precision import at_least_float32, full_precision

Method = Literal["newton", "lbfgs"]

FEWER = 0.75
"""Rows are left out when at most this share of those that are evaluated is unsolved: to leave some out takes copies."""


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

    Every evaluation of the potential serves all points that are not solved: those whose trial step is accepted take
    it and get a new direction, the others halve theirs. A step is accepted when the function has decreased
    sufficiently (Armijo), or when the slope along it is still negative, which for a convex function proves the decrease
    even where the values differ only by rounding.

    Args:
        value_and_gradient: ``x`` (B, D) to ``psi(x)`` (B) and ``grad psi(x)`` (B, D).
        y: points (B, D) to invert the map at.
        start: first guess of ``x`` (B, D).
        hessian: ``x`` to ``grad^2 psi(x)`` (B, D, D); needed by ``newton``.
        method: ``newton`` for few dimensions, ``lbfgs`` for many.
        evaluations: how often the potential is evaluated at most.
        tolerance: rows whose residual is not above it are solved, and left out of further evaluations; 0 never looks,
            so that nothing waits for the device. Most rows are solved soon, and a few, whose maximisers lie at a crease
            of the potential, need several times as many evaluations.
        memory: number of pairs that L-BFGS remembers.

    All of it is computed in the precision of ``y``, float32 at least, whatever the autocast: a residual of eight bits
    says nothing of the step to take. The best point seen is returned for every row, never worse than ``start``.
    """
    if method == "newton" and hessian is None:
        raise ValueError("Newton's method needs the Hessian of the potential")
    y = at_least_float32(y)
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
    """By Newton's method where there is a Hessian, else by L-BFGS.

    Rows are chosen by `torch.lerp` with a weight of 0 or 1, which gives either end exactly where both are finite: it
    is one pass over numbers, as `torch.where` is not on the CPU.
    """

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = value_and_gradient(x)
        return value - (x * y).sum(1), gradient - y

    x = start
    f, g = objective(x)
    found = best = _Best(x, f, torch.linalg.vector_norm(g, dim=1))
    rows: Tensor | None = None  # those of ``found`` that are still solved for, where these are not all
    directions = _Newton(hessian) if hessian is not None else _LBFGS(g, min(memory, max(evaluations - 1, 1)))
    direction = directions.first(x, g)
    step = torch.ones_like(f)
    slack = 4 * torch.finfo(f.dtype).eps
    used = 1
    while used < evaluations:
        if tolerance > 0:
            unsolved = (best.residual > tolerance).nonzero().squeeze(1)
            if len(unsolved) == 0:
                break
            if len(unsolved) <= FEWER * len(f):
                found = best if rows is None else found.with_rows(rows, best)
                rows = unsolved if rows is None else rows[unsolved]
                best = best.rows(unsolved)
                x, y, f, g, direction, step = (a.index_select(0, unsolved) for a in (x, y, f, g, direction, step))
                directions.keep(unsolved)
        trial = torch.addcmul(x, step.unsqueeze(1), direction)
        f_trial, g_trial = objective(trial)
        used += 1
        slope, slope_trial = (g * direction).sum(1), (g_trial * direction).sum(1)
        bound = torch.add(f, f.abs(), alpha=slack).addcmul_(step, slope, value=1e-4)
        finite = (f_trial + slope_trial).abs() < torch.inf
        accepted = ((f_trial <= bound) | (slope_trial <= 0)) & finite
        g_trial = g_trial.nan_to_num(0.0, 0.0, 0.0)  # of rows that are not accepted

        # A solved row is one whatever the others do, left out or not.
        seen = _Best(trial, f_trial, torch.linalg.vector_norm(g_trial, dim=1))
        best = best.or_better(seen, accepted & (best.residual > tolerance))
        if used == evaluations:
            break
        weight = accepted.to(x.dtype).unsqueeze(1)
        x_before, g_before = x, g
        x, g = torch.lerp(x, trial, weight), torch.lerp(g, g_trial, weight)
        f = torch.where(accepted, f_trial, f)
        fresh = directions.next(x, g, x_before, g_before)
        direction = torch.lerp(direction, fresh, weight)
        step = torch.where(accepted, 1.0, 0.5 * step)
    found = best if rows is None else found.with_rows(rows, best)
    return Conjugate(found.point, -found.value, found.residual, used)


class _Best(NamedTuple):
    """The best points seen, the values of the objective and the residuals there."""

    point: Tensor
    value: Tensor
    residual: Tensor

    def rows(self, rows: Tensor) -> _Best:
        return _Best(*(part.index_select(0, rows) for part in self))

    def with_rows(self, rows: Tensor, others: _Best) -> _Best:
        """With these rows as they are in ``others``."""
        return _Best(*(part.index_copy(0, rows, other) for part, other in zip(self, others, strict=True)))

    def or_better(self, others: _Best, allowed: Tensor) -> _Best:
        """With those rows of ``others`` that are allowed and have a smaller residual."""
        better = allowed & (others.residual < self.residual)
        return _Best(
            torch.lerp(self.point, others.point, better.to(self.point.dtype).unsqueeze(1)),
            torch.where(better, others.value, self.value),
            torch.where(better, others.residual, self.residual),
        )


class _Newton:
    """Newton's directions."""

    def __init__(self, hessian: Callable[[Tensor], Tensor]) -> None:
        self.hessian = hessian

    def first(self, x: Tensor, g: Tensor) -> Tensor:
        factor, _ = torch.linalg.cholesky_ex(self.hessian(x))
        direction = torch.cholesky_solve(-g.unsqueeze(2), factor).squeeze(2)
        # Where rounding has made the Hessian indefinite, or the step useless, the gradient still descends.
        usable = torch.isfinite(direction).all(1) & ((direction * g).sum(1) < 0)
        return torch.where(usable.unsqueeze(1), direction, -g)

    def next(self, x: Tensor, g: Tensor, x_before: Tensor, g_before: Tensor) -> Tensor:
        return self.first(x, g)

    def keep(self, rows: Tensor) -> None:
        pass


class _LBFGS:
    r"""Directions of L-BFGS for every row, in the compact form (Byrd, Nocedal and Schnabel, 1994, theorem 2.2).

    With the steps ``S`` and the changes ``Y`` of the gradient along them, ``R`` the upper triangle of ``S^T Y`` in the
    order of time, ``E`` its diagonal and ``c`` the scale ``s^T y / y^T y`` of the latest pair, the inverse Hessian is::

        H g = r + S R^{-T} (E p - Y^T r),    p = R^{-1} S^T g,    r = c (g - Y p)

    which is what the two-loop recursion gives, without its loops: a new pair adds a column to ``R^{-1}`` and the oldest
    takes its row and column away. A pair whose product is not positive has none, so that it counts for nothing.

    Args:
        g: gradients (B, D) to begin with.
        memory: number of pairs.
    """

    def __init__(self, g: Tensor, memory: int) -> None:
        self.memory = memory
        self.steps = g.new_empty(memory, *g.shape)
        self.changes = torch.empty_like(self.steps)
        self.inverse = g.new_zeros(memory, memory, len(g))
        self.products = g.new_zeros(memory, len(g), 1)
        self.scale = g.new_ones(len(g), 1)
        self.count = 0

    def first(self, x: Tensor, g: Tensor) -> Tensor:
        return -g

    def next(self, x: Tensor, g: Tensor, x_before: Tensor, g_before: Tensor) -> Tensor:
        place, size = self.count % self.memory, min(self.count + 1, self.memory)
        steps, changes, inverse = self.steps[:size], self.changes[:size], self.inverse[:size, :size]
        torch.sub(x, x_before, out=steps[place])
        torch.sub(g, g_before, out=changes[place])
        if self.count >= self.memory:
            inverse[place].zero_()
            inverse[:, place].zero_()
        self.count += 1
        with_others = (steps * changes[place]).sum(2)
        product = with_others[place]
        positive = product > 0
        reciprocal = torch.where(positive, 1.0 / product, 0.0)
        scale = product / changes[place].square().sum(1).clamp_min(torch.finfo(g.dtype).tiny)
        self.scale = torch.where(positive.unsqueeze(1), scale.unsqueeze(1), self.scale)
        column = (inverse * with_others).sum(1).mul_(-reciprocal)
        column[place] = reciprocal
        inverse[:, place] = column
        self.products[place] = product.clamp_min(0.0).unsqueeze(1)
        return self.direction(g, steps, changes, inverse, self.products[:size])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.steps, self.changes = self.steps.index_select(1, rows), self.changes.index_select(1, rows)
        self.inverse, self.products = self.inverse.index_select(2, rows), self.products.index_select(1, rows)
        self.scale = self.scale.index_select(0, rows)

    def direction(self, g: Tensor, steps: Tensor, changes: Tensor, inverse: Tensor, products: Tensor) -> Tensor:
        p = (inverse * (steps * g).sum(2)).sum(1).unsqueeze(2)
        r = self.scale * (g - (changes * p).sum(0))
        e = (products * p).squeeze(2) - (changes * r).sum(2)
        along = (inverse * e.unsqueeze(1)).sum(0).unsqueeze(2)
        return -(r + (steps * along).sum(0)).nan_to_num(0.0, 0.0, 0.0)
