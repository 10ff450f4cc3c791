"""The objective of Wasserstein-2 generative networks, and the pair of potentials that it trains.

For the quadratic cost, an optimal transport map from P to Q is the gradient of a convex potential ``psi``,
and its inverse the gradient of the conjugate ``psi*``. The dual problem is (Villani, 2003, theorem 2.9)::

    min over psi of  E psi(X) + E psi*(Y),    1/2 W_2^2 = 1/2 E|X|^2 + 1/2 E|Y|^2 - min

Korotin et al. (2021, equation 9) replace the conjugate by a second network ``psibar`` whose map is kept
inverse to that of ``psi`` by a cycle term, so that nothing is maximised::

    E psi(X) - E psi(T*(Y)) + lambda E |grad psi(T*(Y)) - Y|^2,    T* = grad psibar, held constant in the
    second term

`cyclic_objective` is that. `refined_objective` solves for ``psi*(Y)`` instead, started from the network's
guess, and lets the network follow the solution (Amos, 2023): the bias of an imperfect inverse is gone, at
about the same cost.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from wasskit.models.icnn import Activation, AffinePotential, DenseICNN, Potential, QuadraticPotential
from wasskit.ot.conjugate import Conjugate, solve_conjugate
from wasskit.ot.gaussian import Balance, balance, shrunk_covariance, streamed_moments

Refine = Literal["none", "newton", "lbfgs"]
Dual = Literal["source", "target"]


class Objective(NamedTuple):
    """The value that is differentiated, and its parts, all scalars.

    ``correlation`` is ``E psi(X) - E psi(x)`` and ``constant`` the part ``E <x, Y>`` without gradient, at
    the points ``x`` that stand for ``T*(Y)``: their sum estimates the minimum above, ``E psi(X) + E
    psi*(Y)``. ``cycle_x``, ``cycle_y`` and ``amortisation`` are means over all entries; ``residual`` is the
    mean of ``|grad psi(x) - y|``.
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
    back = conjugate.gradient(y)
    at_back, again = psi.value_and_gradient(back)
    carried = (again.detach() * (back - back.detach())).flatten(1).sum(1)
    zero = x.new_zeros(())
    if cycle_x > 0:
        at_x, there = psi.value_and_gradient(x)
        error_x = (conjugate.gradient(there) - x).square().mean()
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
    """The semi-dual objective at the solved conjugate, and the regression of the inverse network on its
    solution.

    By the envelope theorem the gradient of ``E psi*(Y)`` is that of ``-E psi(x)`` at the maximisers ``x``
    held constant. The two terms train different networks and need no weight between them.

    Args:
        method, evaluations: of `wasskit.ot.conjugate.solve_conjugate`, started at ``grad conjugate(y)``.
    """
    guess = conjugate.gradient(y)
    solved = solve(psi, y, guess.detach(), method=method, evaluations=evaluations)
    correlation = psi(x).mean() - psi(solved.point).mean()
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

    def flat(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = psi.value_and_gradient(points.view(-1, *shape[1:]))
        return value, gradient.flatten(1)

    found = solve_conjugate(
        flat, y.flatten(1), start.flatten(1), hessian=psi.hessian if method == "newton" else None, method=method,
        evaluations=evaluations, tolerance=tolerance,
    )  # fmt: skip
    return Conjugate(found.point.view(shape), *found[1:])


def identity_objective(psi: Potential, x: Tensor, l1: float = 0.0) -> Tensor:
    """Pre-training of a potential to the identity map, ``E |grad psi(x) - x|^2`` plus the L1 penalty."""
    loss = (psi.gradient(x) - x).square().flatten(1).sum(1).mean()
    return loss + l1 * l1_norm(psi) if l1 > 0 else loss


def l1_norm(*modules: nn.Module) -> Tensor:
    """Sum of the absolute values of all parameters."""
    return torch.stack([p.abs().sum() for module in modules for p in module.parameters()]).sum()


class W2GN(nn.Module):
    """A pair of potentials whose gradients are the optimal map from P to Q and its inverse.

    ::

        transport = W2GN.dense(2, start=(x, y))
        optimizer = torch.optim.Adam(transport.parameters(), 5e-3)
        for _ in range(2000):
            transport(sample_x(1024), sample_y(1024)).total.backward()
            optimizer.step(), optimizer.zero_grad(), transport.convexify()
        mapped = transport.forward_map(x)

    Args:
        psi, conjugate: the two potentials, with the same input shape.
        coordinates: where given, the potentials live in its transformed coordinates, and ``forward`` and
            the maps take and give points in the plain ones.
        refine: ``none`` trains by the cycle terms, else the conjugate is solved for by that method.
        evaluations: of the potential per solved conjugate.
        cycle_x, cycle_y, l1: see `cyclic_objective`.
        dual: whose potential the dual problem is written in. ``source``: that of P, whose conjugate stands at the
            points of Q; its optimality makes the inverse images of Q follow P. ``target``: that of Q, with the roles
            exchanged; the images of P then follow Q, which counts where new points are drawn from P (the published
            roles in latent spaces).
    """

    def __init__(
        self,
        psi: Potential,
        conjugate: Potential,
        *,
        coordinates: Balance | None = None,
        refine: Refine = "lbfgs",
        evaluations: int = 10,
        cycle_x: float = 1.0,
        cycle_y: float = 1.0,
        l1: float = 0.0,
        dual: Dual = "source",
    ) -> None:
        super().__init__()
        if refine not in get_args(Refine):
            raise ValueError(f"unknown refine {refine!r}: {', '.join(get_args(Refine))}")
        if dual not in get_args(Dual):
            raise ValueError(f"unknown dual {dual!r}: {', '.join(get_args(Dual))}")
        self.dual = dual
        self.psi = psi
        self.conjugate = conjugate
        self.refine = refine
        self.evaluations = evaluations
        self.cycle_x, self.cycle_y, self.l1 = cycle_x, cycle_y, l1
        self.source_transform: Tensor | None
        for name in Balance._fields:
            value = None if coordinates is None else getattr(coordinates, name).float().contiguous()
            self.register_buffer(name, value)

    @classmethod
    def dense(
        cls,
        dim: int,
        *,
        hidden: Sequence[int] = (128, 128, 64),
        rank: int = 1,
        activation: Activation = "celu",
        strong_convexity: float = 1e-6,
        dropout: float = 0.0,
        start: tuple[Tensor, Tensor] | Balance | Literal["identity", "plain"] = "identity",
        **settings: Any,
    ) -> W2GN:
        """Two dense networks of one architecture.

        Args:
            start: ``identity`` adds a learned quadratic form with which both maps start at the identity;
                two samples (N, D), or a `Balance`, also change coordinates so that the maps start at the
                optimal transport between the Gaussians of their moments, on their device; ``plain`` leaves the
                networks as they are, to be pre-trained by `identity_objective`.
            settings: the remaining ones of the class.
        """

        def build() -> DenseICNN:
            return DenseICNN(dim, hidden, rank, activation, strong_convexity, dropout)

        if start == "plain":
            return cls(build(), build(), **settings)
        if isinstance(start, str) and start != "identity":
            raise ValueError(f"unknown start {start!r}: identity, plain, a pair of samples or a Balance")
        coordinates: Balance | None = None
        points: tuple[Tensor, ...] = ()
        if isinstance(start, Balance):  # a tuple too, but not of samples
            coordinates = start
        elif not isinstance(start, str):
            coordinates = gaussian_coordinates(*start)
            points = tuple(sample[:4096].float() for sample in start)
        pair = QuadraticPotential(build(), dim), QuadraticPotential(build(), dim)
        transport = cls(*pair, coordinates=coordinates, **settings)
        if coordinates is not None:
            transport.to(coordinates.scale.device)
        if points:
            transport.center(*points)
        return transport

    @property
    def coordinates(self) -> Balance | None:
        """The change of coordinates, if there is one."""
        if self.source_transform is None:
            return None
        return Balance(*(getattr(self, name) for name in Balance._fields))

    @torch.no_grad()
    def move_to(self, coordinates: Balance) -> None:
        """Change the coordinates of a pair that has some."""
        for name, value in coordinates._asdict().items():
            getattr(self, name).copy_(value)

    def center(self, x: Tensor, y: Tensor) -> None:
        """Adapt freshly drawn networks to samples of both measures (see `DenseICNN.center`)."""
        coordinates = self.coordinates
        if coordinates is not None:
            x, y = coordinates.source(x), coordinates.target(y)
        self.psi.center(x)
        self.conjugate.center(y)

    def forward(self, x: Tensor, y: Tensor) -> Objective:
        """The objective on batches of P and Q."""
        coordinates = self.coordinates
        if coordinates is not None:
            x, y = coordinates.source(x), coordinates.target(y)
        if self.dual == "source":
            return self.objective(self.psi, self.conjugate, x, y, self.cycle_x, self.cycle_y)
        exchanged = self.objective(self.conjugate, self.psi, y, x, self.cycle_y, self.cycle_x)
        return exchanged._replace(cycle_x=exchanged.cycle_y, cycle_y=exchanged.cycle_x)

    def objective(
        self, first: Potential, second: Potential, x: Tensor, y: Tensor, cycle_x: float, cycle_y: float
    ) -> Objective:
        """The objective in the potential ``first`` of ``x``; ``second`` gives the inverse map."""
        if self.refine == "none":
            return cyclic_objective(first, second, x, y, cycle_x=cycle_x, cycle_y=cycle_y, l1=self.l1)
        return refined_objective(
            first, second, x, y, method=self.refine, evaluations=self.evaluations, l1=self.l1
        )

    def potentials(self) -> tuple[Potential, Potential]:
        """The two potentials in plain coordinates."""
        coordinates = self.coordinates
        if coordinates is None:
            return self.psi, self.conjugate
        first, second, m, n, scale = coordinates
        return (
            AffinePotential(self.psi, first, m, n, scale),
            AffinePotential(self.conjugate, second, n, m, scale),
        )

    def half_squared_distance(self, objective: Objective, x: Tensor, y: Tensor) -> Tensor:
        """The estimate of ``1/2 W_2^2(P, Q)`` from the objective on the batch, in plain coordinates."""
        coordinates = self.coordinates
        products = (objective.correlation + objective.constant).detach()
        if coordinates is not None:
            products = coordinates.inner_products(products, x, y)
        return 0.5 * (x.square().flatten(1).sum(1).mean() + y.square().flatten(1).sum(1).mean()) - products

    @torch.no_grad()
    def forward_map(self, x: Tensor, chunk: int = 8192) -> Tensor:
        """``T(x) = grad psi(x)`` for points (N, ...)."""
        psi, _ = self.potentials()
        return torch.cat([psi.gradient(part) for part in x.split(chunk)])

    @torch.no_grad()
    def inverse_map(
        self, y: Tensor, *, refine: Refine = "none", evaluations: int = 40, chunk: int = 8192
    ) -> Tensor:
        """``T^{-1}(y)``: the second network's map, or, refined, the solution of ``grad psi(x) = y`` from
        there.
        """
        coordinates = self.coordinates
        parts = []
        for part in y.split(chunk):
            moved = part if coordinates is None else coordinates.target(part)
            found = self.conjugate.gradient(moved)
            if refine != "none":
                found = solve(
                    self.psi, moved, found, method=refine, evaluations=evaluations, tolerance=1e-5
                ).point
            if coordinates is not None:
                found = coordinates.source_back(found)
            parts.append(found)
        return torch.cat(parts)

    def convexify(self) -> None:
        """Project both networks onto convex ones; to be called after every step."""
        self.psi.convexify()
        self.conjugate.convexify()

    def frozen_copy(self) -> W2GN:
        """A copy without gradients, for a moving average of the weights."""
        return copy.deepcopy(self).requires_grad_(False)


def gaussian_coordinates(x: Tensor, y: Tensor) -> Balance:
    """Coordinates in which the optimal map between the (shrunk) Gaussians of two samples is the identity."""
    first, second = streamed_moments(x.split(65536)), streamed_moments(y.split(65536))
    return balance(first.mean, shrunk_covariance(first), second.mean, shrunk_covariance(second))
