r"""The dual value of potentials on fresh points, and whether it shows a training to be better than its start.

By duality every convex potential bounds the distance from below (Villani, 2003, theorem 2.9),

.. math:: \tfrac12 W_2^2(P, Q) \ge E[\tfrac12 |X|^2 - \psi(X)] + E[\tfrac12 |Y|^2 - \psi^*(Y)],

and what is missing measures the error of the map: it is :math:`E[\psi(X) + \psi^*(Y) - \langle X, Y \rangle]` at
:math:`Y = T^*(X)`, which lies between :math:`E|\nabla\psi(X) - T^*(X)|^2` over twice the largest and over twice the
smallest curvature of :math:`\psi`. Of two potentials the one of larger value has the better map, and both values are
means over points: no known map is needed, only points of P and Q that neither potential was fitted to.

**The rule.** With n fresh points of P and m of Q, the gain in value of a trained potential over its Gaussian start is
the sum of two independent means of paired differences, with the variance :math:`s_X^2 / n + s_Y^2 / m`. The trained
maps are kept only if gain over deviation exceeds the quantile of Student's distribution with min(n, m) - 1 degrees of
freedom (Welch's are at least as many) in **both** directions: that of the potential for the forward map, and that of
the second network's for the inverse. As both must be shown (an intersection-union test; Berger, 1982), the chance of
keeping a pair of which one map has the lower value is at most `LEVEL`, three deviations of a normal; with K candidates,
of which the best was chosen on the same points, each is tested at ``LEVEL / K`` (Bonferroni). Where nothing is shown,
the start is kept: it is the simpler map, and each other's exact inverse with the map back.

Sobol points vary less in their means than independent ones, so that the deviations of theirs are taken too large.
Conjugates are solved for; what is left of the residual r counts against the training, as the conjugate of a potential
of curvature at least mu is larger by :math:`r^2 / (2 \mu)` at most.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from wasskit.distributed.shard import map_shards
from wasskit.models.icnn import Potential, QuadraticPotential
from wasskit.ot.precision import in_float64
from wasskit.plugins.w2gn.core.objective import solve
from wasskit.plugins.w2gn.core.transport import W2GN

LEVEL = 0.00135
"""Chance of keeping trained maps of which one is no better than the start."""
EVALUATIONS = 60
TOLERANCE = 1e-6


class Mean(NamedTuple):
    """A sum of two independent means, with its standard error."""

    value: float
    error: float


class Gain(NamedTuple):
    """What trained maps gain over the Gaussian start on fresh points, in units of half the squared distance.

    Args:
        forward, inverse: the gain in dual value of the potential of either map.
        points: the smaller number of points.
    """

    forward: Mean
    inverse: Mean
    points: int

    def shown(self, candidates: int = 1) -> bool:
        """Whether the trained maps are better, beyond doubt, in both directions; see the module."""
        from scipy.stats import t

        least = float(t.isf(LEVEL / candidates, max(self.points - 1, 1)))
        return all(gain.value > least * gain.error for gain in (self.forward, self.inverse))

    @property
    def total(self) -> float:
        """Of both directions."""
        return self.forward.value + self.inverse.value

    def as_dict(self) -> dict[str, float]:
        """Plain values, as results have them."""
        values = {name: getattr(self, name) for name in ("forward", "inverse")}
        errors = {f"{name}_error": gain.error for name, gain in values.items()}
        return {name: gain.value for name, gain in values.items()} | errors | {"points": float(self.points)}


class Kept(NamedTuple):
    """Whether the trained maps are kept or the Gaussian start, and the gain that decided; ``gained``: whether there
    were trained maps to decide on, which an evaluation had found better than the start."""

    trained: bool
    gain: Gain
    gained: bool = True

    def note(self) -> str:
        """The decision in words."""
        if not self.gained:
            return (
                "The Gaussian start is the answer, as far as can be told, and is kept: at no evaluation did training "
                f"gain in dual value over it, on {self.gain.points:,} points to choose by. --keep end keeps what "
                "training ends with."
            )
        forward, inverse = (
            f"{mean.value:+.2g} {way} (standard error {mean.error:.1g})"
            for way, mean in (("forward", self.gain.forward), ("back", self.gain.inverse))
        )
        found = f"on {self.gain.points:,} fresh points training gains {forward} and {inverse} in dual value"
        if self.trained:
            return f"The trained maps are kept: {found} over the Gaussian start."
        return (
            f"The Gaussian start is the answer, as far as can be told, and is kept: {found}. --keep end keeps what "
            "training ends with."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as results have them."""
        return {"kept": "trained" if self.trained else "start", "gain": self.gain.as_dict()}


def better_of(maps: W2GN, x: Tensor, y: Tensor, *, candidates: int = 1) -> tuple[W2GN, Kept]:
    """The maps, if fresh points (n, ...) and (m, ...) show them to be better than their Gaussian start, which is
    returned otherwise. Called by all ranks.

    Args:
        candidates: of how many they were chosen by these very points.
    """
    found = gain(maps, x, y)
    kept = Kept(found.shown(candidates), found)
    return (maps if kept.trained else gaussian_start(maps).eval()), kept


def gaussian_start(transport: W2GN) -> W2GN:
    """A copy of a pair of potentials, moved back to where ``--start gaussian`` began: the identity of its coordinates.

    Raises:
        TypeError: the pair began elsewhere.
    """
    start = transport.frozen_copy()
    for potential in (start.psi, start.conjugate):
        form = _quadratic(potential)
        with torch.no_grad():
            form.factor.copy_(torch.eye(len(form.factor)) if form.factor.ndim else torch.ones(()))
            cast(torch.nn.Linear, form.network.output_layer).weight.zero_()
    return start


@torch.no_grad()
def gain(transport: W2GN, x: Tensor, y: Tensor) -> Gain:
    """What a pair of potentials gains over its Gaussian start on fresh points (n, ...) and (m, ...) of P and Q, two or
    more of each. Called by all ranks. In float64, where the device has it.
    """
    wide, x, y = _wide(transport, x, y)
    scale = 1.0
    if wide.coordinates is not None:
        scale = float(wide.coordinates.scale)
        x, y = wide.coordinates.source(x), wide.coordinates.target(y)

    def gained(psi: Potential, guess: Potential, x: Tensor, y: Tensor) -> Mean:
        """Of the potential of ``x``: its value, and that of c/2 |x|^2, whose conjugate is |y|^2 / (2 c)."""
        curvature = 1.0 + _least_curvature(_quadratic(psi))
        of_x = map_shards(lambda rows: curvature * _half_square(rows) - _values(psi, rows), x)
        of_y = map_shards(lambda rows: _half_square(rows) / curvature - _conjugates(psi, guess, rows), y)
        return _mean(of_x / scale, of_y / scale)

    forward = gained(wide.psi, wide.conjugate, x, y)
    inverse = gained(wide.conjugate, wide.psi, y, x)
    return Gain(forward, inverse, min(len(x), len(y)))


@torch.no_grad()
def dual_value(transport: W2GN, x: Tensor, y: Tensor, *, offset: Tensor | None = None) -> Mean:
    """The bound of ``1/2 W_2^2`` by the potential of the forward map, from points (n, ...) and (m, ...) that it was not
    fitted to, two or more of each. Called by all ranks.

    Args:
        offset: (D,), of points whose clouds are apart by it in truth; half its square is still to be added.
    """
    wide, x, y = _wide(transport, x, y)
    coordinates = wide.coordinates
    if coordinates is None:
        of_x, of_y = _half_square(x), _half_square(y)
        moved, scale = (x, y), x.new_ones(())
    else:
        # In plain coordinates the potential is psi(x') / c + <x, m2>, and its conjugate psi*(y') / c + <y - m2, m1>.
        m1, m2 = (mean.view(1, -1, *[1] * (x.ndim - 2)) for mean in (coordinates.source_mean, coordinates.target_mean))
        of_x = _half_square(x) - (x * m2).flatten(1).sum(1)
        of_y = _half_square(y) - ((y - m2) * m1).flatten(1).sum(1)
        moved, scale = (coordinates.source(x), coordinates.target(y)), coordinates.scale
    values = map_shards(lambda rows: _values(wide.psi, rows), moved[0])
    conjugates = map_shards(lambda rows: _conjugates(wide.psi, wide.conjugate, rows), moved[1])
    of_x, of_y = of_x - values / scale, of_y - conjugates / scale
    return _mean(of_x, of_y) if offset is None else _mean(of_x - x @ offset.to(x), of_y + y @ offset.to(y))


def _wide(transport: W2GN, *points: Tensor) -> tuple[W2GN, Tensor, Tensor]:
    x, y = map(in_float64, points)
    return copy.deepcopy(transport).requires_grad_(False).eval().to(x.device, x.dtype), x, y


def _quadratic(potential: Potential) -> QuadraticPotential:
    if not isinstance(potential, QuadraticPotential):
        raise TypeError(f"a {type(potential).__name__} has no Gaussian start: it has no quadratic form")
    return potential


def _least_curvature(potential: QuadraticPotential) -> float:
    """Of what is added to the quadratic form."""
    gain = 1.0 if potential.gain is None else float(potential.gain)
    return gain * float(getattr(potential.network, "strong_convexity", 0.0))


def _half_square(rows: Tensor) -> Tensor:
    return 0.5 * rows.flatten(1).square().sum(1)


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(rows.split(max(64, (1 << 20) // max(rows[0].numel(), 1))))


def _values(psi: Potential, rows: Tensor) -> Tensor:
    return torch.cat([psi(part) for part in _parts(rows)])


def _conjugates(psi: Potential, guess: Potential, rows: Tensor) -> Tensor:
    """``psi*`` at the rows from above, solved for from where the other network's map leads."""
    least = 0.0
    if isinstance(psi, QuadraticPotential):
        singular = torch.linalg.svdvals(psi.factor) if psi.factor.ndim else psi.factor
        least = float(singular.min()) ** 2 + _least_curvature(psi)
    found = []
    for part in _parts(rows):
        solved = solve(psi, part, guess.gradient(part), evaluations=EVALUATIONS, tolerance=TOLERANCE)
        found.append(solved.value + (solved.residual.square() / (2.0 * least) if least > 0 else 0.0))
    return torch.cat(found)


def _mean(of_x: Tensor, of_y: Tensor) -> Mean:
    """The sum of the means of two independent samples."""
    value = of_x.mean() + of_y.mean()
    error = (of_x.var() / len(of_x) + of_y.var() / len(of_y)).sqrt()
    return Mean(float(value), float(error))
