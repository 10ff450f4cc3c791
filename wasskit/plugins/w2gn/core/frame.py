"""Maps that were fitted in other coordinates than those of the points that they take and give."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from wasskit.ot.precision import in_float64
from wasskit.plugins.w2gn.core.transport import W2GN, Refine


class FramedTransport(nn.Module):
    """``T(x) = b + B^-1 t(B (x - a))`` and its inverse, for a pair ``t`` fitted to ``B (x - a)`` and ``B (y - b)``.

    Where ``t`` is optimal for the squared distance, ``T`` is for ``|B (x - y)|^2``: with ``B`` the identity, the
    default, for the same one. The centres are taken off in float64, so that a cloud far from zero loses nothing.

    Args:
        transport: the pair ``t``.
        source_centre, target_centre: ``a`` and ``b`` (D,).
        matrix: ``B`` (D, D); None: the identity.
    """

    source_centre: Tensor
    target_centre: Tensor
    matrix: Tensor | None

    def __init__(
        self, transport: W2GN, source_centre: Tensor, target_centre: Tensor, matrix: Tensor | None = None
    ) -> None:
        super().__init__()
        self.transport = transport
        # Of their own: two buffers in one memory would be loaded over each other.
        self.register_buffer("source_centre", source_centre.float().clone())
        self.register_buffer("target_centre", target_centre.float().clone())
        self.register_buffer("matrix", None if matrix is None else matrix.float().clone())

    def forward_map(self, x: Tensor, chunk: int = 8192) -> Tensor:
        """``T(x)`` for points (N, D), in their dtype."""
        return self._mapped(x, self.source_centre, self.target_centre, "forward_map", chunk)

    def inverse_map(self, y: Tensor, *, refine: Refine = "none", chunk: int = 8192, **settings: Any) -> Tensor:
        """``T^-1(y)``, see `W2GN.inverse_map`."""
        return self._mapped(y, self.target_centre, self.source_centre, "inverse_map", chunk, refine=refine, **settings)

    @torch.no_grad()
    def _mapped(self, points: Tensor, start: Tensor, end: Tensor, name: str, chunk: int, **settings: Any) -> Tensor:
        core = self.transport
        if points.dtype == torch.float64:
            core = copy.deepcopy(core).double()
        inner = next(core.parameters()).dtype
        parts = []
        for part in points.split(chunk):
            moved = getattr(core, name)(framed(part, start, self.matrix).to(inner), chunk=chunk, **settings)
            parts.append(unframed(moved, end, self.matrix).to(points.dtype))
        return torch.cat(parts) if parts else points.clone()


def framed(points: Tensor, centre: Tensor, matrix: Tensor | None) -> Tensor:
    """``B (x - a)`` for points (N, D), in float64."""
    moved = in_float64(points) - in_float64(centre)
    return moved if matrix is None else moved @ in_float64(matrix).mT


def unframed(points: Tensor, centre: Tensor, matrix: Tensor | None) -> Tensor:
    """``a + B^-1 x``, what `framed` undoes, in float64."""
    moved = in_float64(points)
    if matrix is not None:
        moved = torch.linalg.solve(in_float64(matrix), moved.mT).mT
    return moved + in_float64(centre)
