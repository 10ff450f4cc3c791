"""Codes of prefixes: vectors to numbers, bytes or bits, and queries to weights whose products with them rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wasskit.evaluation.codes import encode_binary, encode_int8, int8_ranges
from wasskit.plugins.mrl.adapt.network import principal_axes

CodeName = Literal["float32", "float16", "int8", "binary"]
CODES: tuple[CodeName, ...] = get_args(CodeName)
Axes = Literal["principal", "given"]

_EXACT = 1 << 24
"""Whole numbers up to this magnitude are exact in float32, and so are sums of them that stay below it."""


@dataclass(frozen=True)
class PrefixCode:
    r"""How vectors (N, D) are coded, and queries made ready for the codes.

    The prefix of a vector x is :math:`p = A x / \|A x\|`, with d rows A of a rotation, or the first d coordinates. The
    cosine of the prefixes of a query and of a row, q and p, is estimated from the code c of p, up to a number that is
    the same for all rows:

    - ``float32``, ``float16``: :math:`\sum_j q_j c_j`, with c = p;
    - ``int8``: :math:`\sum_j q_j s_j c_j`, with the 256 levels of :mod:`wasskit.evaluation.codes`, :math:`s_j` apart;
    - ``binary``: :math:`\sum_j q_j s_j c_j`, with :math:`c_j = 1` where :math:`p_j > m_j` and 0 elsewhere; m is the
      mean of the vectors that it was learned from, and :math:`s_j = 2\,E|p_j - m_j|`, so that the two values that
      stand for a coordinate are the conditional means of a symmetric one.

    The weights :math:`q_j s_j` are rounded to whole numbers of 8 bits, so small that every sum stays below 2^24: it is
    then exact, also in float32, whatever the order of the summands and the instructions of the processor.

    Args:
        dim: d.
        axes: A (d, D); None for the first d coordinates.
        low: (d,), of ``int8`` the smallest values, of ``binary`` m; ``step``: (d,), s.
    """

    kind: CodeName
    dim: int
    axes: Tensor | None
    low: Tensor
    step: Tensor

    @classmethod
    def learn(cls, x: Tensor, dim: int, kind: CodeName, axes: Axes = "principal") -> PrefixCode:
        """The code of ``dim`` numbers for vectors like ``x`` (N, D).

        ``axes="principal"``: A are the first principal axes, about zero, of the unit rows: the best d directions for
        inner products in the mean of squares. ``"given"``: the first coordinates, as nested embeddings have them.
        """
        rows = principal_axes(x, centred=False)[1][:dim] if axes == "principal" else None
        zero = torch.zeros(dim)
        draft = cls(kind, dim, rows, zero, zero)
        prefixes = draft.prefixes(x)
        if kind == "int8":
            low, step = int8_ranges(prefixes)
            # The widest range of a unit prefix. A constant coordinate, of step 1, would drown all others in the
            # weights of a query that has another value there.
            step.clamp_(max=2 / 255)
        elif kind == "binary":
            low = prefixes.double().mean(0).float()
            step = 2 * (prefixes - low).abs().double().mean(0).float()
        else:
            low, step = zero, torch.ones(dim)
        return cls(kind, dim, rows, low, step)

    @property
    def width(self) -> int:
        """Numbers of a stored code."""
        return -(-self.dim // 8) if self.kind == "binary" else self.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored code."""
        return np.dtype("uint8" if self.kind == "binary" else self.kind)

    @property
    def whole_numbers(self) -> bool:
        """Whether the products of weights and codes are whole numbers below 2^24."""
        return self.kind in ("int8", "binary")

    def prefixes(self, x: Tensor) -> Tensor:
        """Unit prefixes (N, d) float32."""
        x = x.float()
        if self.axes is None:
            return F.normalize(x[:, : self.dim], dim=1)
        # Of unit rows first: the squares of large numbers overflow.
        return F.normalize(F.normalize(x, dim=1) @ self.axes.T, dim=1)

    def encode(self, x: Tensor) -> NDArray[Any]:
        """The codes (N, width) of vectors (N, D), as they are stored."""
        prefixes = self.prefixes(x)
        if self.kind == "int8":
            prefixes = encode_int8(prefixes, self.low, self.step)
        elif self.kind == "binary":
            prefixes = encode_binary(prefixes, self.low)
        return prefixes.numpy().astype(self.dtype, copy=False)

    def tile(self, stored: NDArray[Any]) -> Tensor:
        """Stored codes (R, width) as factors (R, d): int8, or float32."""
        if self.kind == "binary":
            return torch.from_numpy(np.unpackbits(stored, axis=1, count=self.dim).view(np.int8))
        codes = torch.from_numpy(stored)
        return codes if self.kind == "int8" else codes.float()

    def weights(self, queries: Tensor) -> Tensor:
        """What codes are multiplied with, of queries (Q, D): (Q, d) int8, or float32."""
        weights = self.prefixes(queries)
        if not self.whole_numbers:
            return weights
        weights = weights * self.step
        tiny = torch.finfo(torch.float32).tiny
        largest, total = weights.abs().amax(1, keepdim=True), weights.abs().sum(1, keepdim=True)
        # Codes are 128 at most. Rounding adds at most a half to each weight.
        scale = torch.minimum(127 / largest.clamp(min=tiny), (_EXACT / 128 - self.dim / 2) / total.clamp(min=tiny))
        return (weights * scale).nan_to_num(0).round().to(torch.int8)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What :meth:`of_arrays` takes, for a file."""
        found = {"low": self.low.numpy(), "step": self.step.numpy()}
        return found if self.axes is None else found | {"axes": self.axes.numpy()}

    @classmethod
    def of_arrays(cls, kind: CodeName, arrays: Mapping[str, NDArray[Any]]) -> PrefixCode:
        low, step = (torch.from_numpy(arrays[name]) for name in ("low", "step"))
        axes = torch.from_numpy(arrays["axes"]) if "axes" in arrays else None
        return cls(kind, len(low), axes, low, step)
