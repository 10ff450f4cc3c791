r"""Gauss-Newton steps of the dual problem in the weights of a dense potential.

Along a direction ``delta`` of potentials, with ``x* = grad psi*(Y)`` and ``H = grad^2 psi(x*)``, the dual value
``J(psi) = E psi(X) + E psi*(Y)`` is, by the envelope theorem for ``psi*(y) = max_x <x, y> - psi(x)``::

    J(psi + e delta) = J(psi) + e (E delta(X) - E delta(x*)) + e^2/2 E <grad delta(x*), H^-1 grad delta(x*)> + o(e^2)

For a network ``delta`` is linear in a small change ``d`` of the weights, ``grad delta(x) = A(x) d``, so that the step
that is best to second order solves::

    (G + mu I) d = -g,    g = E d psi(X)/d theta - E d psi(x*)/d theta,    G = E A(x*)^T H^-1 A(x*)

subject to ``theta + d >= 0`` for the weights whose sign makes the network convex. What is left out is the curvature of
the network in its weights, as in any Gauss-Newton method; ``mu`` is chosen by Levenberg's and Marquardt's rule.

``G`` measures an error of the map in the metric that the dual problem itself measures it in, ``H^-1``. That weighs the
map's creases, where ``H`` is large, the less, and the rate of Adam, one for all directions of the weights, hardly
reaches them; ``G`` divides the weight out. Its price is a matrix of as many rows as there are weights.
"""

from __future__ import annotations

import copy
import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from wasskit.distributed.collectives import broadcast_module, reduce_sum
from wasskit.distributed.shard import mean_of_shares, shard_indices
from wasskit.errors import UserError
from wasskit.models.icnn import MeanPotential, Potential
from wasskit.models.icnn.jacobian import dense_network, map_derivatives
from wasskit.ot.conjugate import Conjugate
from wasskit.plugins.w2gn.core.objective import solve

MOST_WEIGHTS = 16384
"""Weights of a potential up to which its matrix, and the copies that solving takes, are made: 2 GiB each."""

POINTS_PER_ROW_OF_MATRIX = 17
"""The matrix is a mean over every 17th point. Every 16th Sobol point would lie in one sixteenth of the cube."""

EVALUATIONS, TOLERANCE = 40, 1e-7
"""Of a solved conjugate. Dual values are compared to about a millionth."""

TRIES, ROUNDS = 10, 10
"""Dampings that are tried for a step, and times that weights which a step has made negative are held at zero."""

LEAST_KEPT, LEAST_DAMPING = 0.1, 1e-9
"""Of the decrease that is promised, for a step to be taken; and the smallest damping."""

CHUNK = 8192
"""Points whose gradient is summed at once."""


class Batch(NamedTuple):
    """This rank's part of a batch, as `wasskit.distributed.shard.shard_indices` gives it.

    ``x``, ``y``: points (B, D) of both measures; ``start``: a guess of ``grad psi*(y)``; ``size``: points in the whole
    batch.
    """

    x: Tensor
    y: Tensor
    start: Tensor
    size: int


class Taken(NamedTuple):
    """A step: ``grad psi*(y)`` before it, (B, D); the dual value after it and its residual; the damping of the next
    one, relative to the mean of the matrix's diagonal. The value is that before where no damping has lowered it."""

    solved: Tensor
    value: float
    residual: float
    damping: float


def check_size(potential: nn.Module) -> None:
    """Raise `UserError` for a potential of too many weights, and for a mean of several."""
    if isinstance(potential, MeanPotential):
        raise UserError("--gauss-newton-steps are taken in the weights of one network: leave out --members.")
    network = dense_network(potential)
    weights = sum(parameter.numel() for parameter in potential.parameters())
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"--gauss-newton-steps: a potential of {weights:,} weights needs a matrix of {weights**2 * 8 / 1e9:.0f} "
            f"GB; up to {MOST_WEIGHTS:,} are possible. Choose narrower layers than --hidden "
            f"{','.join(map(str, network.hidden))}, as 64,64,32."
        )


def gauss_newton_step(potential: Potential, batch: Batch, damping: float) -> Taken:
    """Take a step in the weights of a dense potential. Called by all ranks, which end with the same weights.

    All but the matrix is computed in float64, as the changes of the dual value are small beside it.
    """
    working = copy.deepcopy(potential).double().eval().requires_grad_(True)
    batch = batch._replace(x=batch.x.double(), y=batch.y.double(), start=batch.start.double())
    before, solved = dual_value(working, batch)
    gradient = dual_gradient(working, batch, solved.point)
    matrix = dual_matrix(working, batch, solved.point)
    unit = float(matrix.diagonal().mean())
    bounded = bounded_weights(working)
    at = parameters_to_vector(working.parameters()).detach()
    residual = float(mean_of_shares(solved.residual.mean(), batch.size))
    batch = batch._replace(start=solved.point)
    found = solved.point.to(next(potential.parameters()).dtype)
    for _ in range(TRIES):
        step = bounded_step(matrix, gradient, at, bounded, damping * unit)
        promised = 0.0 if step is None else -float(gradient @ step + 0.5 * step @ (matrix @ step))
        if step is not None and promised > 0:
            vector_to_parameters(at + step, working.parameters())
            after, _ = dual_value(working, batch)
            kept = (before - after) / promised
            if kept > LEAST_KEPT:
                potential.load_state_dict(working.state_dict())
                broadcast_module(potential)  # factorisations may differ between processors in their last bits
                return Taken(found, after, residual, max(damping * _factor(kept), LEAST_DAMPING))
        damping *= 4
    return Taken(found, before, residual, damping)


def _factor(kept: float) -> float:
    """Of the damping, where a step has kept so much of the decrease that the quadratic model promised."""
    return 1 / 3 if kept > 0.6 else 2.0 if kept < 0.25 else 1.0


def dual_value(potential: Potential, batch: Batch) -> tuple[float, Conjugate]:
    """``E psi(X) + E psi*(Y)`` over the whole batch, and the conjugate at this rank's part."""
    solved = solve(potential, batch.y, batch.start, evaluations=EVALUATIONS, tolerance=TOLERANCE)
    with torch.no_grad():
        values = torch.cat([potential(part) for part in batch.x.split(CHUNK)])
    return float(mean_of_shares(values.mean() + solved.value.mean(), batch.size)), solved


def dual_gradient(potential: Potential, batch: Batch, solved: Tensor) -> Tensor:
    """The derivative (P) of the dual value in the weights of a potential, at ``x*`` (B, D)."""
    parameters = list(potential.parameters())
    total = torch.zeros_like(parameters_to_vector(parameters)).detach()
    for points, sign in ((batch.x, 1.0), (solved, -1.0)):
        for part in points.split(CHUNK):
            found = torch.autograd.grad(potential(part).sum() * (sign / len(points)), parameters)
            total += torch.cat([own.flatten() for own in found])
    return mean_of_shares(total, batch.size)


@torch.no_grad()
def dual_matrix(potential: Potential, batch: Batch, solved: Tensor) -> Tensor:
    """``E A(x*)^T H(x*)^-1 A(x*)``, (P, P), at some of the points ``x*`` (B, D): summed in float32, given in float64.

    With ``H = L L^T`` it is the mean of the products ``(L^-1 A)^T (L^-1 A)``, of which the lower half is made.
    """
    every = POINTS_PER_ROW_OF_MATRIX
    points = solved[-shard_indices(batch.size).start % every :: every]
    count = float(reduce_sum(torch.tensor(float(len(points)), device=solved.device)))
    single = copy.deepcopy(potential).float()
    weights = sum(parameter.numel() for parameter in single.parameters())
    total = torch.zeros(weights, weights, device=solved.device)
    edges = [weights * place // 6 for place in range(7)]
    dim = solved.shape[1]
    for part in points.split(max(2**26 // (weights * dim), 1)):
        factor = torch.linalg.cholesky(potential.hessian(part))
        identity = torch.eye(dim, dtype=part.dtype, device=part.device).expand_as(factor)
        directions = torch.linalg.solve_triangular(factor, identity, upper=False)
        rows = map_derivatives(single, part.float().repeat_interleave(dim, 0), directions.float().flatten(0, 1))
        for begin, end in itertools.pairwise(edges):
            total[begin:end, :end].addmm_(rows[:, begin:end].t(), rows[:, :end], alpha=1.0 / count)
    lower = reduce_sum(total.double().tril_())
    return lower + lower.tril(-1).t()


def bounded_weights(potential: Potential) -> Tensor:
    """Which weights (P) convexity asks to be non-negative."""
    network = dense_network(potential)
    ids = {id(weight) for weight in (*network.hidden_weights, network.final_layer.weight)}
    return torch.cat([torch.full_like(p, id(p) in ids, dtype=torch.bool).flatten() for p in potential.parameters()])


@torch.no_grad()
def bounded_step(matrix: Tensor, gradient: Tensor, at: Tensor, bounded: Tensor, damping: float) -> Tensor | None:
    """The minimiser ``d`` of ``<g, d> + 1/2 <d, (G + mu I) d>`` subject to ``theta + d >= 0`` where that is asked for,
    by the primal-dual active set method (Hintermueller, Ito and Kunisch, 2003): weights that a solution has made
    negative are held at zero, those that the objective draws away from there are released, and the rest is solved for
    again.

    It ends at the minimiser where it comes to rest. In the second half of its rounds no weight is released.

    Args:
        matrix: ``G`` (P, P), float64.
        gradient, at: ``g`` and ``theta`` (P).
        bounded: for which weights (P) it is asked.
        damping: ``mu``.

    Returns:
        The step (P); None where the damped matrix is not positive definite in float32.
    """
    free = ~(bounded & (at <= 0) & (gradient > 0))
    step = torch.zeros_like(at)
    for number in range(ROUNDS):
        inside, held = free.nonzero().squeeze(1), (~free).nonzero().squeeze(1)
        step[held] = -at[held]
        rows = matrix[inside]
        own = rows[:, inside]
        own.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(own.float())
        if failed:
            return None
        target = -(gradient[inside] + rows[:, held] @ step[held]).unsqueeze(1)
        found = torch.cholesky_solve(target.float(), factor).double()
        found += torch.cholesky_solve((target - own @ found).float(), factor)
        step[inside] = found.squeeze(1)
        stay = ~bounded | torch.where(free, at + step >= 0, gradient + matrix @ step + damping * step < 0)
        stay = stay & free if 2 * number >= ROUNDS else stay
        if torch.equal(stay, free):
            break
        free = stay
    return torch.where(bounded, torch.maximum(step, -at), step)
