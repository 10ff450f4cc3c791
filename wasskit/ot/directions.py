"""Directions on the unit sphere, along which a cloud is looked at one coordinate at a time."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from wasskit.system.transfer import to_device

Kind = Literal["orthogonal", "random", "sobol"]


def slicing_directions(
    count: int, dim: int, *, like: Tensor, kind: Kind = "orthogonal", generator: torch.Generator | None = None
) -> Tensor:
    """``count`` directions (count, dim), each uniform on the sphere, in the dtype and on the device of ``like``.

    ``orthogonal``: the rows of independent orthogonal matrices of Haar's measure (Rowland et al., 2019), whose
    estimates vary less than those of ``random``, independent ones. ``sobol``: a scrambled Sobol sequence of normal
    quantiles, normalised; seeded from ``generator``. Drawn on the CPU, so that a seed means the same on every device.

    Raises ``ValueError`` for no direction, no dimension, an unknown kind, or more dimensions than Sobol's 21,201.

    Example:
        >>> import torch, wasskit
        >>> directions = wasskit.slicing_directions(3, 3, like=torch.zeros(1))
        >>> bool(torch.allclose(directions @ directions.T, torch.eye(3), atol=1e-6))
        True
    """
    if count < 1 or dim < 1:
        raise ValueError(f"at least one direction of at least one dimension is needed, not {count} of {dim}")
    if kind == "random":
        found = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    elif kind == "orthogonal":
        blocks = math.ceil(count / dim)
        square = torch.randn(blocks, dim, dim, dtype=torch.float64, generator=generator)
        orthogonal, triangular = torch.linalg.qr(square)
        # The signs make the factor unique, and with it uniform (Mezzadri, 2007).
        signs = triangular.diagonal(dim1=1, dim2=2).sign()
        found = (orthogonal * signs.unsqueeze(1)).mT.reshape(-1, dim)[:count]
    elif kind == "sobol":
        if dim > torch.quasirandom.SobolEngine.MAXDIM:
            raise ValueError(f"Sobol sequences have at most 21,201 dimensions, not {dim}: take orthogonal directions")
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        found = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    else:
        raise ValueError(f"directions are orthogonal, random or sobol, not {kind!r}")
    return to_device((found / found.norm(dim=1, keepdim=True)).to(like.dtype), like.device)
