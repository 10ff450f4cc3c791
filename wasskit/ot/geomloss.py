"""The nested Sinkhorn divergences as published: annealed by GeomLoss for a handful of steps, one call per pair.

The annealing halves the blur from the diameter of the clouds down to its target, one averaged step each, and
stops there: single values are up to 4 % off the converged ones of :mod:`wasskit.ot.sinkhorn`. Kept to
reproduce published numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from wasskit.ot.nesting import check_dims
from wasskit.ot.precision import at_least_float32, full_precision


def annealed_nested_sinkhorn_divergences(
    embeddings: Tensor, dims: Sequence[int], *, beta: float = 1.0, blur: float = 0.5, scaling: float = 0.5
) -> Tensor:
    """Annealed estimates of the divergences of :func:`wasskit.ot.sinkhorn.nested_sinkhorn_divergences`.

    Args:
        embeddings: (n, D) floating point, used as they are; float16 and bfloat16 are computed in float32.
        dims: the nested dimensions, strictly increasing, at most D.
        beta: weight of the residual coordinates in the cost.
        blur: square root of the entropic strength.
        scaling: ratio of successive blurs of the annealing; 0.5 as published, close to 1 it converges.

    Returns:
        (K - 1,), differentiable as in GeomLoss: only the last, unaveraged step is differentiated.
    """
    from geomloss import SamplesLoss

    checked = check_dims(dims, embeddings.shape[-1])
    x = at_least_float32(embeddings)
    divergence = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=True, backend="tensorized")
    values = [x.new_zeros(0)]
    with full_precision(x):
        for smaller, larger in itertools.pairwise(checked):
            prefix, residual = x[:, :smaller], x[:, smaller:larger]
            padded = torch.cat([prefix, torch.zeros_like(residual)], dim=1)
            stretched = torch.cat([prefix, beta**0.5 * residual], dim=1)
            # From a diameter of 0, that of a single point, GeomLoss knows no way down to the blur.
            divergence.diameter = _diameter(padded, stretched) or blur
            values.append(divergence(padded, stretched).reshape(1))
    return torch.cat(values)


def _diameter(x: Tensor, y: Tensor) -> float:
    """Of both clouds together, as GeomLoss estimates it where none is given."""
    low = torch.stack((x.min(dim=0)[0], y.min(dim=0)[0])).min(dim=0)[0]
    high = torch.stack((x.max(dim=0)[0], y.max(dim=0)[0])).max(dim=0)[0]
    diameter: float = (high - low).norm().item()
    return diameter
