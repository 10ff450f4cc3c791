"""The objective of Wasserstein-2 generative networks.

For the quadratic cost, an optimal transport map from P to Q is the gradient of a convex potential ``psi``,
and its inverse the gradient of the conjugate ``psi*``. The dual problem is (Villani, 2003, theorem 2.9)::

    min over psi of  E psi(X) + E psi*(Y),    1/2 W_2^2 = 1/2 E|X|^2 + 1/2 E|Y|^2 - min

Korotin et al. (2021, equation 9) replace the conjugate by a second network ``psibar`` whose map is kept
inverse to that of ``psi`` by a cycle term, so that nothing is maximised::

    E psi(X) - E psi(T*(Y)) + lambda E |grad psi(T*(Y)) - Y|^2,    T* = grad psibar, held constant in the
    second term

`cyclic_objective` is that. `refined_objective` solves for ``psi*(Y)`` instead, started from the network's guess, and
lets the network follow the solution (Amos, 2023): the bias of an imperfect inverse is gone, at about the same cost.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from wasskit.models.icnn import MeanPotential, Potential
from wasskit.ot.conjugate import Conjugate, solve_conjugate
from wasskit.ot.precision import full_precision


class Objective(NamedTuple):
    """The value that is differentiated, and its parts, all scalars.

    ``correlation`` is ``E psi(X) - E psi(x)`` and ``constant`` the part ``E <x, Y>`` without gradient, at the points
    ``x`` that stand for ``T*(Y)``: their sum estimates the minimum above, ``E psi(X) + E psi*(Y)``. ``cycle_x``,
    ``cycle_y`` and ``amortisation`` are means over all entries; ``residual`` is the mean of ``|grad psi(x) - y|``.
    """

    total: Tensor
    correlation: Tensor
    constant: Tensor
    cycle_x: Tensor
    cycle_y: Tensor
    amortisation: Tensor
    residual: Tensor
    l1: Tensor

    def half_squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The estimate of ``1/2 W_2^2`` on the batch, in the coordinates of the potentials."""
        norms = x.square().flatten(1).sum(1).mean() + y.square().flatten(1).sum(1).mean()
        return 0.5 * norms - (self.correlation + self.constant).detach()


def cyclic_objective(
    psi: Potential,
    conjugate: Potential,
    x: Tensor,
    y: Tensor,
    *,
    cycle_x: float = 0.0,
    cycle_y: float = 1.0,
    l1: float = 0.0,
) -> Objective:
    """Equation 9 of Korotin et al. (2021) on a batch, with one sweep of each network per point set.

    ``T*(y)`` enters the potential without gradient, and the cycle term with it. Both are read off one
    sweep: the value there is ``psi(t) - <grad psi(t), t>`` with the map held constant, whose derivative
    along ``t = T*(y)`` is zero.

    Args:
        psi, conjugate: the potential and the network of its inverse map.
        x, y: batches (B, ...) of P and Q; the sizes may differ.
        cycle_x, cycle_y: weights of the mean squared entries of ``T*(T(x)) - x`` and ``T(T*(y)) - y``. The
            theory's lambda, for the squared norm, is the weight divided by the number of coordinates.
        l1: weight of the sum of the absolute values of all parameters.
    """
    of_psi, of_conjugate = psi.prepared(), conjugate.prepared()
    _, back = of_conjugate(y)
    at_back, again = of_psi(back)
    carried = (again.detach() * (back - back.detach())).flatten(1).sum(1)
    zero = x.new_zeros(())
    if cycle_x > 0:
        at_x, there = of_psi(x)
        error_x = (of_conjugate(there)[1] - x).square().mean()
    else:
        at_x, error_x = psi(x), zero
    error_y = (again - y).square().mean()
    correlation = at_x.mean() - (at_back - carried).mean()
    norm = l1_norm(psi, conjugate) if l1 > 0 else zero
    total = correlation + cycle_x * error_x + cycle_y * error_y + l1 * norm
    with torch.no_grad():
        constant = (back * y).flatten(1).sum(1).mean()
        residual = (again - y).flatten(1).norm(dim=1).mean()
    return Objective(total, correlation, constant, error_x, error_y, zero, residual, norm)


def refined_objective(
    psi: Potential,
    conjugate: Potential,
    x: Tensor,
    y: Tensor,
    *,
    method: Literal["newton", "lbfgs"] = "lbfgs",
    evaluations: int = 10,
    l1: float = 0.0,
) -> Objective:
    """The semi-dual objective at the solved conjugate, and the regression of the inverse network on its solution.

    By the envelope theorem the gradient of ``E psi*(Y)`` is that of ``-E psi(x)`` at the maximisers ``x``
    held constant. The two terms train different networks and need no weight between them.

    Args:
        method, evaluations: of `wasskit.ot.conjugate.solve_conjugate`, started at ``grad conjugate(y)``.
    """
    guess = conjugate.gradient(y)
    solved = solve(psi, y, guess.detach(), method=method, evaluations=evaluations)
    at_x, at_solved = psi(torch.cat([x, solved.point])).split([len(x), len(y)])
    correlation = at_x.mean() - at_solved.mean()
    amortisation = (guess - solved.point).square().mean()
    zero = x.new_zeros(())
    norm = l1_norm(psi, conjugate) if l1 > 0 else zero
    total = correlation + amortisation + l1 * norm
    constant = (solved.point * y).flatten(1).sum(1).mean()
    return Objective(total, correlation, constant, zero, zero, amortisation, solved.residual.mean(), norm)


def solve(
    psi: Potential,
    y: Tensor,
    start: Tensor,
    *,
    method: Literal["newton", "lbfgs"] = "lbfgs",
    evaluations: int = 50,
    tolerance: float = 0.0,
) -> Conjugate:
    """Solve ``grad psi(x) = y`` for points or images ``y`` (B, ...)."""
    shape = y.shape
    with full_precision(y):
        value_and_gradient = psi.frozen()

    def flat(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = value_and_gradient(points.view(-1, *shape[1:]))
        return value, gradient.flatten(1)

    found = solve_conjugate(
        flat, y.flatten(1), start.flatten(1), hessian=psi.hessian if method == "newton" else None, method=method,
        evaluations=evaluations, tolerance=tolerance,
    )  # fmt: skip
    return Conjugate(found.point.view(shape), *found[1:])


def identity_objective(psi: Potential, x: Tensor, l1: float = 0.0) -> Tensor:
    """Pre-training of a potential to the identity map, ``E |grad psi(x) - x|^2`` plus the L1 penalty; of a mean, the
    mean of that over its members."""
    if isinstance(psi, MeanPotential):
        return torch.stack([identity_objective(member, x, l1) for member in psi.potentials]).mean()
    loss = (psi.gradient(x) - x).square().flatten(1).sum(1).mean()
    return loss + l1 * l1_norm(psi) if l1 > 0 else loss


def l1_norm(*modules: nn.Module) -> Tensor:
    """Sum of the absolute values of all parameters."""
    return torch.stack([p.abs().sum() for module in modules for p in module.parameters()]).sum()
