"""Codes of embeddings: a byte or a bit for each coordinate. Pure functions of tensors.

A coordinate's byte counts 256 equal steps of its range; its bit says whether it lies above a threshold.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Code = Literal["float32", "int8", "binary"]
CODES: tuple[Code, ...] = get_args(Code)

_BITS = 8


def code_bytes(code: Code, dim: int) -> int:
    """Bytes of the code of a vector of ``dim`` coordinates."""
    return {"float32": 4 * dim, "int8": dim, "binary": -(-dim // _BITS)}[code]


def int8_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest value and step (each (D,)) that spread 256 levels over the range of each column of ``x`` (N, D).

    A constant column has step 1: its code is its value.
    """
    low, high = x.amin(0), x.amax(0)
    step = (high - low) / 255
    return low, torch.where(step > 0, step, torch.ones_like(step))


def encode_int8(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """The nearest of the levels ``low + step * (0, ..., 255)``, as int8 from -128; values beyond take the outermost."""
    return ((x - low) / step).round().clamp(0, 255).sub(128).to(torch.int8)


def decode_int8(codes: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """The levels of int8 codes (N, D), in the dtype of ``low``; off by half a step at most within the range."""
    return (codes.to(low.dtype) + 128) * step + low


def encode_binary(x: Tensor, threshold: Tensor | float = 0.0) -> Tensor:
    """Bits ``x > threshold`` of (N, D), packed to uint8 (N, ceil(D / 8)), the first coordinate the highest bit.

    As ``numpy.packbits``: the last byte is filled with zeros.
    """
    bits = F.pad((x > threshold).to(torch.uint8), (0, -x.shape[1] % _BITS))
    return (bits.view(len(x), -1, _BITS) << _shifts(x.device)).sum(2, dtype=torch.uint8)


def decode_binary(packed: Tensor, dim: int) -> Tensor:
    """Packed bits (N, ceil(D / 8)) as -1 and 1, float32 (N, D): inner products are D - 2 Hamming distance, exactly."""
    bits = (packed[:, :, None] >> _shifts(packed.device)) & 1
    return bits.flatten(1)[:, :dim].float() * 2 - 1


def factors(x: Tensor, code: Code, like: Tensor | None = None) -> Tensor:
    """The vectors that stand for the codes of the unit rows of ``x`` (N, d), float32: their inner products rank.

    float32: the unit rows. int8: the decoded rows, of unit length again. binary: -1 and 1.

    Args:
        like: vectors (M, d) whose ranges (int8) and means (thresholds of binary) define the code; ``x`` by default.
    """
    x = F.normalize(x.float(), dim=1)
    if code == "float32":
        return x
    like = x if like is None else F.normalize(like.float(), dim=1)
    if code == "int8":
        low, step = int8_ranges(like)
        return F.normalize(decode_int8(encode_int8(x, low, step), low, step), dim=1)
    if code == "binary":
        return decode_binary(encode_binary(x, like.double().mean(0).float()), x.shape[1])
    raise ValueError(f"code must be one of {', '.join(CODES)}, not {code!r}")


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(_BITS - 1, -1, -1, dtype=torch.uint8, device=device)
