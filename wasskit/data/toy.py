"""Measures to draw from: Gaussians, mixtures, spirals and clouds of points.

A measure is the law of ``transform(u)`` for uniform ``u`` in a unit cube. Drawing is then a pure function
of a seed, on any device, and the uniform points can be replaced by scrambled Sobol points (Owen, 1998):
every batch still follows the measure exactly, but its averages vary much less from batch to batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wasskit.data.catalog import MEASURES
from wasskit.data.embeddings import is_embeddings, open_embeddings
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.ot.precision import in_float64
from wasskit.system.hints import did_you_mean
from wasskit.system.transfer import Constant, to_device

Scheme = Literal["random", "sobol"]


class Measure:
    """The law of ``transform(u)``.

    Args:
        dim: dimension of the points.
        uniforms: number of uniform coordinates that a point is made from.
        transform: ``u`` (n, uniforms) in (0, 1) to points (n, dim).
    """

    def __init__(self, dim: int, uniforms: int, transform: Callable[[Tensor], Tensor]) -> None:
        self.dim = dim
        self.uniforms = uniforms
        self.transform = transform

    def draw(
        self,
        count: int,
        *seed: int | str,
        scheme: Scheme = "random",
        device: torch.device | str = "cpu",
        rows: range | None = None,
    ) -> Tensor:
        """``count`` points (count, dim), a pure function of the seed's parts and the scheme; of these, ``rows`` only.

        What is drawn does not depend on ``rows``: ranks that draw different rows draw parts of one batch.
        """
        number = derive_seed(*seed)
        rows = range(count) if rows is None else rows
        if scheme == "sobol":
            u = to_device(sobol_points(count, self.uniforms, number, rows), device)
        else:
            generator = torch.Generator(device).manual_seed(number)
            u = torch.rand(count, self.uniforms, device=device, generator=generator)[rows.start : rows.stop]
        return self.transform(u.clamp(2.0**-25, 1.0 - 2.0**-24))

    def mapped(self, function: Callable[[Tensor], Tensor], dim: int | None = None) -> Measure:
        """The image of this measure under a function of points."""
        return Measure(dim or self.dim, self.uniforms, lambda u: function(self.transform(u)))


MOST_DIMENSIONS = torch.quasirandom.SobolEngine.MAXDIM
"""Dimensions that Sobol points can have: 21,201."""

SCRAMBLED_ANEW_UP_TO = 64
"""Dimension up to which every draw of Sobol points is scrambled anew."""


def sobol_points(count: int, dim: int, seed: int, rows: range | None = None) -> Tensor:
    """Randomised Sobol points (count, dim) in [0, 1), float32: each is uniform, together they are spread evenly.

    ``rows``: make only these of the points, the others are passed over.

    To scramble takes 1 ms in two dimensions, but 26 ms in 256 and a second in 4096. In many dimensions all draws
    therefore share one scrambling and differ by a random digital shift, which suffices for both properties
    (L'Ecuyer and Lemieux, 2002).
    """
    rows = range(count) if rows is None else rows
    if dim <= SCRAMBLED_ANEW_UP_TO:
        engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed % 2**31)
        return sobol_engine_at(engine, rows.start).draw(len(rows))
    bits = torch.quasirandom.SobolEngine.MAXBIT
    engine = sobol_engine_at(scrambled_engine(dim).reset(), rows.start)
    whole = (engine.draw(len(rows), dtype=torch.float64) * 2.0**bits).long()
    generator = torch.Generator().manual_seed(seed)
    shifted: Tensor = whole ^ torch.randint(2**bits, (dim,), generator=generator)
    # As many bits as a float holds: rounding would carry a point into the next cell, or to 1.
    return (shifted >> (bits - 24)).float() / 2.0**24


def sobol_engine_at(engine: torch.quasirandom.SobolEngine, count: int) -> torch.quasirandom.SobolEngine:
    """A fresh engine whose next point is number ``count``, from 0."""
    # torch before 2.5 spoils an engine that is to pass over none.
    return engine.fast_forward(count) if count else engine


@functools.lru_cache(maxsize=4)
def scrambled_engine(dim: int) -> torch.quasirandom.SobolEngine:
    """The one scrambling in ``dim`` dimensions."""
    return torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)


def normal(dim: int) -> Measure:
    """The standard normal."""
    return Measure(dim, dim, torch.special.ndtri)


def gaussian(factor: Tensor, mean: Tensor | None = None) -> Measure:
    """The normal of covariance ``factor factor^T``, for a factor (D, D)."""

    across = Constant(factor.T)
    centre = None if mean is None else Constant(mean)

    def transform(u: Tensor) -> Tensor:
        z = torch.special.ndtri(u) @ across.like(u)
        points: Tensor = z if centre is None else z + centre.like(z)
        return points

    return Measure(factor.shape[0], factor.shape[1], transform)


def gaussian_mixture(centers: Tensor, factors: Tensor | float) -> Measure:
    """Equal parts of normals at ``centers`` (K, D), with factors (K, D, D) or one standard deviation."""
    count, dim = centers.shape
    middle = Constant(centers)
    spread = Constant(factors) if isinstance(factors, Tensor) else factors

    def transform(u: Tensor) -> Tensor:
        component = (u[:, 0] * count).long().clamp_(max=count - 1)
        z = torch.special.ndtri(u[:, 1:])
        if isinstance(spread, Constant):
            # One product per component, of which every point keeps its own: a factor gathered for every point would
            # move D^2 numbers per point.
            images = torch.einsum("kij,nj->nki", spread.like(u), z)
            z = images[torch.arange(len(u), device=u.device), component]
        else:
            z = spread * z
        points: Tensor = middle.like(u)[component] + z
        return points

    return Measure(dim, dim + 1, transform)


def cloud(points: Tensor) -> Measure:
    """The uniform law on given points (N, D)."""
    count = len(points)
    all_points = Constant(points)

    def transform(u: Tensor) -> Tensor:
        return all_points.on(u.device)[(in_float64(u[:, 0]) * count).long().clamp_(max=count - 1)]

    return Measure(points.shape[1], 1, transform)


def ring_centers(count: int = 8, central: bool = False) -> Tensor:
    """``count`` unit vectors at equal angles, and the origin where ``central``."""
    angles = torch.arange(count, dtype=torch.float64) * (2.0 * math.pi / count)
    centers = torch.stack([angles.cos(), angles.sin()], 1)
    return torch.cat([centers, torch.zeros(1, 2, dtype=torch.float64)]) if central else centers


def grid_centers(side: int) -> Tensor:
    """The points of a ``side`` x ``side`` grid of step 1 around the origin."""
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2.0
    return torch.cartesian_prod(axis, axis)


def ring(count: int = 8, radius: float = 12.0, std: float = 1.0) -> Measure:
    """Normals on a circle (8 Gaussians)."""
    return gaussian_mixture((radius * ring_centers(count)).float(), std)


def grid(side: int, step: float = 9.0, std: float = 1.0) -> Measure:
    """Normals on a square grid (25, 49, 100 Gaussians)."""
    return gaussian_mixture((step * grid_centers(side)).float(), std)


def swiss_roll(noise: float = 0.8, divisor: float = 7.5) -> Measure:
    """The plane section of the Swiss roll, ``t (cos t, sin t)`` for t uniform in [1.5 pi, 4.5 pi], with noise."""

    def transform(u: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1.0 + 2.0 * u[:, 0])
        spiral = torch.stack([t * t.cos(), t * t.sin()], 1)
        points: Tensor = (spiral + noise * torch.special.ndtri(u[:, 1:])) / divisor
        return points

    return Measure(2, 3, transform)


def two_moons(noise: float = 0.08) -> Measure:
    """Two interleaving half circles."""

    def transform(u: Tensor) -> Tensor:
        upper = u[:, 0] < 0.5
        angle = math.pi * torch.where(upper, 2.0 * u[:, 0], 2.0 * u[:, 0] - 1.0)
        x = torch.where(upper, angle.cos(), 1.0 - angle.cos())
        y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
        points: Tensor = torch.stack([x - 0.5, y - 0.25], 1) + noise * torch.special.ndtri(u[:, 1:])
        return points

    return Measure(2, 3, transform)


def two_circles(noise: float = 0.06, factor: float = 0.5) -> Measure:
    """Two concentric circles of equal weight."""

    def transform(u: Tensor) -> Tensor:
        inner = u[:, 0] < 0.5
        angle = 4.0 * math.pi * u[:, 0]
        radius = torch.where(inner, factor, 1.0).unsqueeze(1)
        circle = radius * torch.stack([angle.cos(), angle.sin()], 1)
        points: Tensor = circle + noise * torch.special.ndtri(u[:, 1:])
        return points

    return Measure(2, 3, transform)


def modes(name: str) -> tuple[Tensor, float] | None:
    """Centres (K, 2) and standard deviation of a mixture by its name; None for other measures."""
    maker, arguments = MEASURES.get(name, ("", ()))
    if maker == "ring":
        return 12.0 * ring_centers(arguments[0]), 1.0
    return (9.0 * grid_centers(arguments[0]), 1.0) if maker == "grid" else None


def measure(name: str | Path) -> Measure:
    """A measure by name, or the cloud in a ``.npy`` file of shape (N, D).

    Raises:
        UserError: the name is unknown; the file is missing, of another shape, has NaN or infinite rows.
    """
    if str(name) in MEASURES:
        maker, arguments = MEASURES[str(name)]
        made: Measure = globals()[maker](*arguments)
        return made
    path = Path(name)
    if not is_embeddings(path):
        raise UserError(
            f"{str(name)!r} is not one of {', '.join(MEASURES)}, nor a file of points (.npy, ...)."
            f"{did_you_mean(str(name), MEASURES)}"
        )
    return cloud(load_points(path))


def load_points(path: Path) -> Tensor:
    """The points (N, D) in a file of vectors, float32. Raises `UserError` for whatever is wrong with it."""
    opened = open_embeddings(path)
    check_dimensions(opened.shape[1], path)
    return checked_points(opened.whole(check=False).to(torch.float32), str(path))


def check_dimensions(dim: int, name: Path | str) -> None:
    """Raise `UserError` for a cloud of more dimensions than maps are fitted in, and saved ones are loaded with."""
    if dim > MOST_DIMENSIONS:
        raise UserError(
            f"{name} holds points of {dim:,} dimensions; a cloud may have up to {MOST_DIMENSIONS:,}: "
            "project them first."
        )


def checked_points(points: Tensor, name: str) -> Tensor:
    """The points, if they are all finite; a `UserError` that counts and names the rows otherwise."""
    bad = (~torch.isfinite(points).all(1)).nonzero().flatten()
    if len(bad):
        rows = ", ".join(str(int(i)) for i in bad[:3]) + (", ..." if len(bad) > 3 else "")
        raise UserError(f"{name} has {len(bad)} rows with NaN or infinite entries (rows {rows}): remove them first.")
    return points


class Whitening:
    """The change of coordinates ``(x - mean) C^{-1/2}`` that gives a sample mean 0 and covariance the identity."""

    def __init__(self, points: Tensor) -> None:
        from wasskit.ot.gaussian import streamed_moments, symmetric_power

        moments = streamed_moments([points])
        self.mean = moments.mean
        self.multiplier = symmetric_power(moments.covariance, 0.5)
        self.inverse = symmetric_power(moments.covariance, -0.5)
        self._kept = [Constant(value) for value in (self.mean, self.multiplier, self.inverse)]

    def __call__(self, points: Tensor) -> Tensor:
        """White coordinates of points (N, D)."""
        mean, _, inverse = (value.like(points) for value in self._kept)
        white: Tensor = (points - mean) @ inverse
        return white

    def undo(self, points: Tensor) -> Tensor:
        """Plain coordinates of white points."""
        mean, multiplier, _ = (value.like(points) for value in self._kept)
        plain: Tensor = points @ multiplier + mean
        return plain
