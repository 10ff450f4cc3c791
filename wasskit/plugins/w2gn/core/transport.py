"""The pair of potentials that is trained, and the maps that are their gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from wasskit.models.icnn import (
    Activation,
    AffinePotential,
    DenseICNN,
    MeanPotential,
    Potential,
    QuadraticPotential,
    members_of,
)
from wasskit.ot.gaussian import Balance, balance, shrunk_covariance, streamed_moments
from wasskit.ot.precision import full_precision
from wasskit.plugins.w2gn.core.objective import Objective, cyclic_objective, refined_objective, solve

Refine = Literal["none", "newton", "lbfgs"]
Dual = Literal["source", "target"]


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

    Example:
        >>> import torch, wasskit
        >>> x, y = torch.randn(256, 2), 2 * torch.randn(256, 2) + 1
        >>> transport = wasskit.W2GN.dense(2, hidden=(8, 8), start=(x, y))
        >>> transport(x, y).total.backward()
        >>> moved = transport.forward_map(x)
        >>> bool(torch.allclose(moved.mean(0), y.mean(0), atol=0.2))
        True
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

    @classmethod
    def mean(cls, pairs: Sequence[W2GN]) -> W2GN:
        """The means of the potentials of several pairs, in the coordinates and with the settings of the first."""
        return pairs[0].with_potentials(
            MeanPotential([pair.psi for pair in pairs]), MeanPotential([pair.conjugate for pair in pairs])
        )

    def merged(self) -> W2GN:
        """The same pair with single networks in place of means of them; itself where it has none."""
        if not isinstance(self.psi, MeanPotential) or not isinstance(self.conjugate, MeanPotential):
            return self
        return self.with_potentials(self.psi.merged(), self.conjugate.merged())

    def with_potentials(self, psi: Potential, conjugate: Potential) -> W2GN:
        """Other potentials in the coordinates and with the settings of this pair."""
        return W2GN(
            psi, conjugate, coordinates=self.coordinates, refine=self.refine, evaluations=self.evaluations,
            cycle_x=self.cycle_x, cycle_y=self.cycle_y, l1=self.l1, dual=self.dual,
        )  # fmt: skip

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

    def forward(self, x: Tensor, y: Tensor, *, apart: bool = False) -> Objective:
        """The objective on batches of P and Q; with ``apart`` the mean of the objectives of the members of means, which
        trains each on its own.
        """
        first, second, x, y = self.roles(x, y)
        if not apart:
            return self.in_roles(first, second, x, y)
        members = zip(members_of(first), members_of(second), strict=True)
        objectives = [self.in_roles(a, b, x, y) for a, b in members]
        return Objective(*(torch.stack(parts).mean(0) for parts in zip(*objectives, strict=True)))

    def in_roles(self, first: Potential, second: Potential, x: Tensor, y: Tensor) -> Objective:
        """The objective of two potentials in their roles, on points in their coordinates."""
        if self.dual == "source":
            return self.objective(first, second, x, y, self.cycle_x, self.cycle_y)
        exchanged = self.objective(first, second, x, y, self.cycle_y, self.cycle_x)
        return exchanged._replace(cycle_x=exchanged.cycle_y, cycle_y=exchanged.cycle_x)

    def roles(self, x: Tensor, y: Tensor) -> tuple[Potential, Potential, Tensor, Tensor]:
        """The potential that the dual problem is written in, that of the inverse map, and the points of both, batches
        of P and Q, in the coordinates of the potentials."""
        coordinates = self.coordinates
        if coordinates is not None:
            with full_precision(x):  # the points themselves, to which autocast would leave eight bits
                x, y = coordinates.source(x), coordinates.target(y)
        return (self.psi, self.conjugate, x, y) if self.dual == "source" else (self.conjugate, self.psi, y, x)

    def objective(
        self, first: Potential, second: Potential, x: Tensor, y: Tensor, cycle_x: float, cycle_y: float
    ) -> Objective:
        """The objective in the potential ``first`` of ``x``; ``second`` gives the inverse map."""
        if self.refine == "none":
            return cyclic_objective(first, second, x, y, cycle_x=cycle_x, cycle_y=cycle_y, l1=self.l1)
        return refined_objective(first, second, x, y, method=self.refine, evaluations=self.evaluations, l1=self.l1)

    def potentials(self) -> tuple[Potential, Potential]:
        """The two potentials in plain coordinates."""
        coordinates = self.coordinates
        if coordinates is None:
            return self.psi, self.conjugate
        first, second, m, n, scale = coordinates
        return (AffinePotential(self.psi, first, m, n, scale), AffinePotential(self.conjugate, second, n, m, scale))

    def half_squared_distance(self, objective: Objective, x: Tensor, y: Tensor) -> Tensor:
        """The estimate of ``1/2 W_2^2(P, Q)`` from the objective on the batch, in plain coordinates."""
        coordinates = self.coordinates
        if coordinates is None:
            return objective.half_squared_distance(x, y)
        return coordinates.half_squared_distance((objective.correlation + objective.constant).detach(), x, y)

    @torch.no_grad()
    def forward_map(self, x: Tensor, chunk: int = 8192) -> Tensor:
        """``T(x) = grad psi(x)`` for points (N, ...)."""
        psi, _ = self.potentials()
        return torch.cat([psi.gradient(part) for part in x.split(chunk)])

    @torch.no_grad()
    def inverse_map(self, y: Tensor, *, refine: Refine = "none", evaluations: int = 40, chunk: int = 8192) -> Tensor:
        """``T^{-1}(y)``: the second network's map, or, refined, the solution of ``grad psi(x) = y`` from there."""
        coordinates = self.coordinates
        parts = []
        for part in y.split(chunk):
            moved = part if coordinates is None else coordinates.target(part)
            found = self.conjugate.gradient(moved)
            if refine != "none":
                found = solve(self.psi, moved, found, method=refine, evaluations=evaluations, tolerance=1e-5).point
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


def gaussian_coordinates(x: Tensor | Iterable[Tensor], y: Tensor | Iterable[Tensor], floor: float = 1e-4) -> Balance:
    """Coordinates in which the optimal map between the (shrunk) Gaussians of two samples is the identity.

    Args:
        x, y: the samples, (N, D) or in batches (B, D).
        floor: see `wasskit.ot.gaussian.balance`.
    """
    first, second = (streamed_moments(part.split(65536) if isinstance(part, Tensor) else part) for part in (x, y))
    return balance(first.mean, shrunk_covariance(first), second.mean, shrunk_covariance(second), floor)
