r"""The debiased Sinkhorn divergence of two weighted clouds, converged, in memory that grows with the clouds alone.

.. math::
    S_\varepsilon(\alpha, \beta) = \mathrm{OT}_\varepsilon(\alpha, \beta)
        - \tfrac12 \mathrm{OT}_\varepsilon(\alpha, \alpha) - \tfrac12 \mathrm{OT}_\varepsilon(\beta, \beta)

(Ramdas, Garcia Trillos and Cuturi, 2017; Feydy et al., 2019, eq. 3), with the conventions of GeomLoss: the cost is
**half** the squared distance, the entropy, relative to the product of the marginals, has the strength
:math:`\varepsilon = \mathrm{blur}^2`. The potentials solve :math:`f = T_\beta(g)`, :math:`g = T_\alpha(f)` with

.. math:: T_\beta(g)(x) = -\varepsilon \log \sum_j b_j \exp\bigl( (g_j - c(x, y_j)) / \varepsilon \bigr),

swept over tiles of the cost, none of which is kept. The two clouds are solved by alternating steps, started along a
falling sequence of :math:`\varepsilon` (Schmitzer, 2019) and extrapolated by
Anderson's method; a cloud against itself by the Richardson iteration of
:mod:`wasskit.ot.sinkhorn`. Both stop on the error of the marginals. Everything is float64.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wasskit.ot.clouds import check_clouds, normalised_weights
from wasskit.ot.sinkhorn import RICHARDSON_MOMENTUM, RICHARDSON_STEP

_TILE = 2048
#: How many earlier steps the extrapolation remembers.
_MEMORY = 10
#: A tenth of the half in Pinsker's inequality.
_ENOUGH = 0.05


class SinkhornDivergence(NamedTuple):
    r"""What :func:`sinkhorn_divergence` returns; all but ``value`` without gradient, float64.

    Args:
        value: :math:`S_\varepsilon`, a differentiable scalar of the clouds' dtype.
        cost: :math:`\mathrm{OT}_\varepsilon(\alpha, \beta)`, scalar.
        f, g: the potentials (n,) and (m,) of the two clouds: :math:`\langle a, f \rangle + \langle b, g \rangle` is
            ``cost``.
        f_self, g_self: those of each cloud with itself; ``f - f_self`` is the first variation of ``value``.
        plan: (n, m) with the marginals a and b, where asked for, else None.
        marginal_error: the largest of the three problems' errors :math:`\sum_i |\sum_j \pi_{ij} - a_i|`.
        steps: sweeps of the longest problem.
    """

    value: Tensor
    cost: Tensor
    f: Tensor
    g: Tensor
    f_self: Tensor
    g_self: Tensor
    plan: Tensor | None
    marginal_error: float
    steps: int


class _Problem(NamedTuple):
    """One transport problem: potentials of both clouds, error of the marginals, sweeps."""

    f: Tensor
    g: Tensor
    error: float
    steps: int


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    *,
    blur: float,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 2000,
    scaling: float = 0.5,
    plan: bool = False,
    tile: int = _TILE,
) -> SinkhornDivergence:
    r"""The converged divergence :math:`S_\varepsilon` of two weighted clouds.

    Differentiable once in the points and in the weights, by the envelope theorem: the gradient in :math:`x_i` is
    :math:`\sum_j \pi^{xx}_{ij} x_j - \sum_j \pi^{xy}_{ij} y_j`, the one in the weight :math:`a_i` is
    :math:`f_i - f^{xx}_i` (projected, since weights count up to their sum). The solver is not differentiated.

    Args:
        x: (n, d) floating point; ``y`` (m, d) likewise.
        blur: square root of the entropic strength, in the units of the points; 0 excluded.
        x_weights: (n,) not negative, of any positive sum; by default equal. ``y_weights`` (m,) likewise.
        tolerance: the error of the marginals, in total mass, at which the iterations stop. The error of the value is of
            its square.
        max_steps: sweeps per problem at most; a ``RuntimeWarning`` says when they did not suffice.
        scaling: ratio of successive blurs on the way down from the diameter of the clouds.
        plan: return the dense plan (n, m).
        tile: rows and columns of the cost that are in memory at a time.

    Raises:
        ValueError: shapes, weights or parameters that do not fit, or values that are not finite.

    Example:
        >>> import torch, wasskit
        >>> x = torch.randn(50, 2, dtype=torch.float64)
        >>> result = wasskit.sinkhorn_divergence(x, x + 1, blur=0.5)
        >>> result.value.round(decimals=4)  # half the squared length of the shift
        tensor(1., dtype=torch.float64)
    """
    check_clouds(x, y)
    for name, number in (("blur", blur), ("tolerance", tolerance)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive and finite, not {number}")
    if not 0 < scaling < 1:
        raise ValueError(f"scaling is a ratio between 0 and 1, not {scaling}")
    if max_steps < 1 or tile < 1:
        raise ValueError(f"max_steps and tile must be at least 1, not {max_steps} and {tile}")
    a, b = normalised_weights(x_weights, x), normalised_weights(y_weights, y)
    with torch.no_grad():
        # A common shift changes nothing but the rounding of the distances.
        centre = (a @ x.double() + b @ y.double()) / 2
        clouds = x.double() - centre, y.double() - centre
        solver = _Solver(blur**2, tolerance, max_steps, scaling, tile)
        cross = solver.two(*clouds, a, b)
        first, second = solver.one(clouds[0], a), solver.one(clouds[1], b)
    error = max(cross.error, first.error, second.error)
    if error > tolerance:
        warnings.warn(
            f"Sinkhorn's iterations stopped after {max_steps} sweeps with a marginal error of {error:.1e}, above the "
            f"tolerance of {tolerance:.1e}: give more max_steps or a larger blur.",
            RuntimeWarning,
            stacklevel=2,
        )
    exact = _Divergence.apply(x.double() - centre, y.double() - centre, a, b, cross, first, second, solver)
    value = exact.to(x.dtype)
    with torch.no_grad():
        return SinkhornDivergence(
            value=value, cost=solver.cost(a, b, cross), f=cross.f, g=cross.g,
            f_self=first.f, g_self=second.f,
            plan=solver.plan(*clouds, a, b, cross) if plan else None,
            marginal_error=error, steps=max(cross.steps, first.steps, second.steps),
        )  # fmt: skip


class _Solver:
    """Sweeps over tiles of exp((f_i + g_j - c_ij) / eps) and the iterations made of them."""

    def __init__(self, epsilon: float, tolerance: float, steps: int, scaling: float, tile: int) -> None:
        self.epsilon = epsilon
        self.tolerance = tolerance
        self.steps = steps
        self.scaling = scaling
        self.tile = tile

    def softmin(self, x: Tensor, y: Tensor, log_b: Tensor, g: Tensor, epsilon: float) -> Tensor:
        """T_b(g) at the points ``x``: -eps log sum_j b_j exp((g_j - |x_i - y_j|^2 / 2) / eps), (n,)."""
        heights = log_b + (g - y.square().sum(1) / 2) / epsilon
        found = []
        for rows in x.split(self.tile):
            total = rows.new_full((len(rows),), -torch.inf)
            for columns, height in zip(y.split(self.tile), heights.split(self.tile), strict=True):
                exponents = torch.addmm(height, rows, columns.mT, alpha=1 / epsilon)
                total = torch.logaddexp(total, exponents.logsumexp(1))
            found.append(rows.square().sum(1) / 2 - epsilon * total)
        return torch.cat(found)

    def two(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> _Problem:
        """Alternating steps after epsilon scaling, extrapolated from the latest ones.

        With f = T(g) the rows' marginals are exact, and T(f) - g tells the columns': the error costs no sweep. A plain
        step raises the dual value <a, f> + <b, g> by eps times the relative entropy of the column marginals, hence by
        eps error^2 / 2 at least (Pinsker's inequality); an extrapolation that raises it by less than a tenth of that is
        given up for the plain step, so that the iterations converge whatever is extrapolated.
        """
        log_a, log_b = a.log(), b.log()
        f, g = torch.zeros_like(a), torch.zeros_like(b)
        for epsilon in self._descent(x, y):
            # The simultaneous update alone keeps a common shift of f and g oscillating (eigenvalue -1).
            f, g = ((f + self.softmin(x, y, log_b, g, epsilon)) / 2, (g + self.softmin(y, x, log_a, f, epsilon)) / 2)
        history = _Anderson(b.sqrt())
        f = self.softmin(x, y, log_b, g, self.epsilon)
        for step in range(1, self.steps + 1):
            image = self.softmin(y, x, log_a, f, self.epsilon)
            # Column j of the plan has the mass b_j exp((g_j - image_j) / eps); e^600 is below the overflow of float64.
            error = float((b * torch.expm1(((g - image) / self.epsilon).clamp_max(600)).abs()).sum())
            if error <= self.tolerance or step == self.steps:
                break
            least = float(a @ f + b @ g) + _ENOUGH * self.epsilon * min(error, 1.0) ** 2
            g = history.next(g, image)
            f = self.softmin(x, y, log_b, g, self.epsilon)
            if g is not image and not float(a @ f + b @ g) >= least:
                history.clear()
                g = image
                f = self.softmin(x, y, log_b, g, self.epsilon)
        return _Problem(f, g, error, step)

    def one(self, x: Tensor, a: Tensor) -> _Problem:
        """A cloud against itself: its residual f - T(f) has a Jacobian with a spectrum in [1, 2], whatever eps."""
        log_a = a.log()
        f = previous = self.softmin(x, x, log_a, torch.zeros_like(a), self.epsilon) / 2
        error = math.inf
        for step in range(1, self.steps + 1):
            residual = f - self.softmin(x, x, log_a, f, self.epsilon)
            error = float((a * torch.expm1(residual / self.epsilon).abs()).sum())
            if error <= self.tolerance:
                return _Problem(f, f, error, step)
            following = f - RICHARDSON_STEP * residual + RICHARDSON_MOMENTUM * (f - previous)
            previous, f = f, following
        return _Problem(f, f, error, self.steps)

    def _descent(self, x: Tensor, y: Tensor) -> list[float]:
        """Values of eps from the squared diameter of the box around both clouds down to the one asked for."""
        joined = torch.stack([torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))])
        diameter = float((joined[1] - joined[0]).norm())
        count = math.ceil(math.log(max(diameter, 1e-300) / math.sqrt(self.epsilon)) / -math.log(self.scaling))
        return [self.epsilon * self.scaling ** (-2 * k) for k in range(max(count, 0), 0, -1)]

    def cost(self, a: Tensor, b: Tensor, found: _Problem) -> Tensor:
        """The dual value <a, f> + <b, g>; the plan's total mass is 1, since the rows' marginals are exact."""
        return a @ found.f + b @ found.g

    def self_cost(self, x: Tensor, a: Tensor, f: Tensor) -> Tensor:
        """The dual value 2 <a, f> - eps (mass - 1): its error is the square of the marginals'."""
        residual = f - self.softmin(x, x, a.log(), f, self.epsilon)
        return 2 * (a @ f) - self.epsilon * (a @ torch.expm1(residual / self.epsilon))

    def carried(self, x: Tensor, y: Tensor, log_a: Tensor, log_b: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """sum_j pi_ij (x_i - y_j), (n, d)."""
        rows_of, parts = self._rows(x, log_a, f), []
        heights = log_b + (g - y.square().sum(1) / 2) / self.epsilon
        for rows, base in rows_of:
            total = torch.zeros_like(rows)
            for columns, height in zip(y.split(self.tile), heights.split(self.tile), strict=True):
                mass = torch.addmm(height, rows, columns.mT, alpha=1 / self.epsilon).add_(base).exp_()
                total += mass.sum(1, keepdim=True) * rows - mass @ columns
            parts.append(total)
        return torch.cat(parts)

    def plan(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, found: _Problem) -> Tensor:
        heights = b.log() + (found.g - y.square().sum(1) / 2) / self.epsilon
        parts = [
            torch.addmm(heights, rows, y.mT, alpha=1 / self.epsilon).add_(base).exp_()
            for rows, base in self._rows(x, a.log(), found.f)
        ]
        return torch.cat(parts)

    def _rows(self, x: Tensor, log_a: Tensor, f: Tensor) -> list[tuple[Tensor, Tensor]]:
        base = (log_a + (f - x.square().sum(1) / 2) / self.epsilon).unsqueeze(1)
        return list(zip(x.split(self.tile), base.split(self.tile), strict=True))


class _Anderson:
    """Anderson's extrapolation of a fixed-point iteration: the mean of the latest images whose residuals cancel.

    (Anderson, 1965; Walker and Ni, 2011, type II.) Residuals are weighed by ``weights``.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.points: list[tuple[Tensor, Tensor]] = []

    def clear(self) -> None:
        self.points = []

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """The next point, from one, its image, and those before."""
        residual = image - point
        self.points = [*self.points[-_MEMORY:], (image, residual)]
        if len(self.points) < 2:
            return image
        images = torch.stack([image - older for older, _ in self.points[:-1]], 1)
        residuals = torch.stack([residual - older for _, older in self.points[:-1]], 1)
        weighed = self.weights.unsqueeze(1) * residuals
        gram = weighed.mT @ weighed
        # Residuals that hardly differ must not be told apart by their rounding.
        gram.diagonal().add_(1e-14 * gram.diagonal().sum())
        shares = torch.linalg.lstsq(gram, (weighed.mT @ (self.weights * residual)).unsqueeze(1)).solution
        following: Tensor = image - (images @ shares).squeeze(1)
        return following


class _Divergence(Function):
    """The value from solved potentials, with the gradients of the envelope theorem."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, cross: _Problem, first: _Problem, second: _Problem,
        solver: _Solver,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, y, a, b, cross.f, cross.g, first.f, second.f)
        ctx.solver = solver
        both = solver.self_cost(x, a, first.f) + solver.self_cost(y, b, second.f)
        return solver.cost(a, b, cross) - both / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, a, b, f, g, f_self, g_self = ctx.saved_tensors
        solver: _Solver = ctx.solver
        needs, scale = ctx.needs_input_grad, gradient
        log_a, log_b = a.log(), b.log()
        of_x = of_y = of_a = of_b = None
        if needs[0]:
            moved = solver.carried(x, y, log_a, log_b, f, g) - solver.carried(x, x, log_a, log_a, f_self, f_self)
            of_x = scale * moved
        if needs[1]:
            moved = solver.carried(y, x, log_b, log_a, g, f) - solver.carried(y, y, log_b, log_b, g_self, g_self)
            of_y = scale * moved
        if needs[2]:
            of_a = scale * (f - f_self)
        if needs[3]:
            of_b = scale * (g - g_self)
        return of_x, of_y, of_a, of_b, None, None, None, None
