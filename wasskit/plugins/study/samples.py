"""Samples of collapsed spheres, and what both metrics need to know of them: two sweeps, whatever the number of cases.

One draw of normals (N, D) serves every degree of collapse: its first d columns, divided by their length, are uniform on
the sphere of R^d for every d at once. The cases of one draw are thus dependent among themselves, but each has
exactly its law. Zero coordinates, cloned features and cloned instances are never built: their metrics follow from
the sphere's by algebra.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ROWS = 4096
_COLUMNS = 1024
_TILE = 512


@dataclass(frozen=True)
class SphereSample:
    """What one sample of the unit sphere of R^kept says of uniformity.

    Args:
        n: points.
        root_trace: tr S^{1/2} of the covariance S (1/N).
        potentials: L_U by its t.
        pairs: how many pairs L_U is the mean over.
    """

    kept: int
    n: int
    root_trace: float
    potentials: dict[float, float]
    pairs: int

    def lu(self, t: float) -> float:
        return self.potentials[t]


def draw_normals(seed: int, n: int, d: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(n, d) float32 standard normals from NumPy's default generator: the same on every machine."""
    values = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return torch.from_numpy(values).to(device)


def measure_prefixes(
    normals: Tensor, dims: Iterable[int], ts: Sequence[float] = (2.0,), *, pairs: int | None = None
) -> dict[int, SphereSample]:
    """Measure the first d columns of ``normals`` (N, D), rows divided by their length, for every d of ``dims``.

    Args:
        normals: float32 or float64; products are taken in this type, sums in float64.
        ts: the t of L_U: multiples of the first.
        pairs: how many pairs of points L_U is to visit at least; None: all of them.
    """
    dims = sorted(set(dims))
    n = len(normals)
    inverse_lengths = 1 / _prefix_lengths(normals, dims)
    potentials, visited = log_potentials(normals, dims, inverse_lengths, ts, pairs=pairs)
    samples = {}
    for place, d in enumerate(dims):
        trace = root_trace(normals[:, :d], inverse_lengths[:, place])
        samples[d] = SphereSample(d, n, trace, dict(zip(ts, potentials[place], strict=True)), visited)
    return samples


def _prefix_lengths(x: Tensor, dims: Sequence[int]) -> Tensor:
    """(N, number of dims) float64: the length of each row's first d entries."""
    squares = torch.zeros(len(x), len(dims), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _ROWS):
        rows, previous = slice(start, start + _ROWS), 0
        for place, d in enumerate(dims):
            squares[rows, place] = x[rows, previous:d].double().square().sum(dim=1)
            previous = d
    return squares.cumsum(dim=1).sqrt()


def root_trace(x: Tensor, scale: Tensor) -> float:
    """tr S^{1/2} of the covariance S (1/N) of the rows of ``x`` (N, d), each multiplied by its ``scale`` (N,).

    Gram matrices of 4096 rows are taken in the type of ``x``, upper triangle only, and added up in float64; so are the
    eigenvalues found. Of N points in more than N dimensions the (N, N) Gram matrix is decomposed.
    """
    n, d = x.shape
    scale = scale.to(x.dtype)[:, None]
    if n < d:
        z = (x * scale).double()
        z -= z.mean(dim=0)
        covariance = z @ z.mT / n
    else:
        covariance = torch.zeros(d, d, dtype=torch.float64, device=x.device)
        mean = torch.zeros(d, dtype=torch.float64, device=x.device)
        for start in range(0, n, _ROWS):
            z = x[start : start + _ROWS] * scale[start : start + _ROWS]
            mean += z.sum(dim=0, dtype=torch.float64)
            for c in range(0, d, _COLUMNS):
                covariance[c : c + _COLUMNS, c:] += z[:, c : c + _COLUMNS].mT @ z[:, c:]
        mean /= n
        covariance /= n
        covariance.addr_(mean, mean, alpha=-1)
    eigenvalues = torch.linalg.eigvalsh(covariance, UPLO="U")
    return float(eigenvalues.clamp_min(0).sqrt().sum())


def log_potentials(
    x: Tensor, dims: Sequence[int], inverse_lengths: Tensor, ts: Sequence[float], *, pairs: int | None = None
) -> tuple[list[list[float]], int]:
    """log mean_{i<j} exp(-t |z_i - z_j|^2) for every d of ``dims``, ascending, and every t, in one sweep over the
    pairs.

    z_i is the first d entries of row i of ``x`` (N, D) times ``inverse_lengths[i, place of d]`` (of length 1). Pairs
    are visited in square tiles; within a tile the inner products of the first d entries grow from those of the
    dimension before, so all dimensions together cost what the largest does. Potentials at 2t, 3t, ... are powers of
    the first.

    Args:
        ts: multiples of the first.
        pairs: how many pairs to visit at least. Tiles are then taken along the diagonal and along as many parallels to
            it as are needed, so that each point is in equally many pairs; for points in random order the mean over
            them is an unbiased estimate of the mean over all pairs. None: all.

    Returns:
        L_U by dimension and t, and the number of pairs that they are the mean over.
    """
    n, t = len(x), ts[0]
    powers = [round(other / t) for other in ts]
    scales = inverse_lengths.to(x.dtype)
    sums = torch.zeros(len(dims), max(powers), dtype=torch.float64, device=x.device)
    orders = torch.arange(1, max(powers) + 1, dtype=torch.float64, device=x.device)
    # Where those of pairs that count (of squared distances up to 3: most have 2) would leave the range of x, powers are
    # in units of those of the nearest pair so far, exp(units * order).
    far = -3 * t * max(powers) < math.log(torch.finfo(x.dtype).tiny)
    units = torch.full((len(dims),), -math.inf if far else 0.0, dtype=torch.float64, device=x.device)
    offset = torch.tensor(-2 * t, dtype=x.dtype, device=x.device)
    gram_buffer, potential_buffer, power_buffer = (x.new_empty(min(_TILE, n) ** 2) for _ in range(3))
    visited = 0
    for i, j in _tiles(n, pairs):
        a, b = x[i : i + _TILE], x[j : j + _TILE]
        shape = (len(a), len(b))
        gram, potential, power = (
            buffer[: shape[0] * shape[1]].view(shape) for buffer in (gram_buffer, potential_buffer, power_buffer)
        )
        weight = 0.5 if i == j else 1.0
        previous = 0
        for place, d in enumerate(dims):
            product = a[:, previous:d], b[:, previous:d].mT
            if previous == 0:
                torch.mm(*product, out=gram)
            else:
                gram.addmm_(*product)
            previous = d
            # exp(2t z.z' - 2t), between exp(-4t) and 1.
            torch.mul(gram, 2 * t * scales[i : i + _TILE, place, None], out=potential)
            torch.addcmul(offset, potential, scales[j : j + _TILE, place], out=potential)
            if i == j:
                potential.fill_diagonal_(-torch.inf)
            if far:
                before, units[place] = units[place].clone(), torch.maximum(units[place], potential.amax().double())
                sums[place] *= (orders * (before - units[place])).exp()
                potential.sub_(units[place].to(x.dtype))
            potential.exp_()
            sums[place, 0] += weight * potential.sum()
            for k in range(1, max(powers)):
                torch.mul(potential if k == 1 else power, potential, out=power)
                sums[place, k] += weight * power.sum()
        visited += shape[0] * (shape[0] - 1) // 2 if i == j else shape[0] * shape[1]
    logs = (sums / visited).log() + units[:, None] * orders
    return [[float(row[k - 1]) for k in powers] for row in logs], visited


def _tiles(n: int, pairs: int | None) -> Iterator[tuple[int, int]]:
    """First rows and columns of the tiles to visit: each unordered pair of tiles at most once."""
    count = math.ceil(n / _TILE)
    seen, visited = set(), 0
    for parallel in range(count // 2 + 1):
        if pairs is not None and visited >= pairs:
            return
        for i in range(count):
            tile = tuple(sorted((i, (i + parallel) % count)))
            if tile not in seen:
                seen.add(tile)
                yield tile[0] * _TILE, tile[1] * _TILE
        visited += n * _TILE // 2 if parallel == 0 else n * _TILE
