"""Where rounding decides: a block of code that autocast and TF32 do not reach."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """Products are taken in the dtype of their factors, in full, on the device of ``x``."""
    with torch.autocast(x.device.type, enabled=False):
        precision = torch.get_float32_matmul_precision() if x.is_cuda else "highest"
        if precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
