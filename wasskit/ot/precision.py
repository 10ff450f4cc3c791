"""The arithmetic of a block of code: reduced by autocast, or in full where rounding decides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Forward passes in a precision on a device: for ``fp32`` without autocast, whatever is in force outside.

    Raises:
        ValueError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    return torch.autocast(device.type, dtype=_REDUCED.get(precision), enabled=precision in _REDUCED)


def at_least_float32(x: Tensor) -> Tensor:
    """The numbers in float32, those in float64 as they are."""
    return x if x.dtype == torch.float64 else x.float()


def in_float64(x: Tensor) -> Tensor:
    """The numbers in float64, or in float32 on a device that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Products and convolutions are taken in the dtype of their factors, in full, on the device of ``x``.

    TF32 and bfloat16 products are allowed by either of two interfaces: ``torch.set_float32_matmul_precision``, and,
    from torch 2.9 on, ``fp32_precision`` of the backends, after which the former raises. Afterwards what was set by
    either is in force again. Where torch.compile traces the block, autocast alone is left: a graph cannot change TF32.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.compiler.is_compiling() else _in_full(kind)


@contextlib.contextmanager
def _in_full(kind: str) -> Iterator[None]:
    with torch.autocast(kind, enabled=False), _full_products(kind):
        yield


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Products of float32 matrices in TF32 on CUDA devices that have it, but where `full_precision` is asked for."""
    # The older interface: torch.compile reads it, and raises where the newer one is in use.
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _full_products(kind: str) -> contextlib.AbstractContextManager[None]:
    if kind not in ("cuda", "cpu"):
        return contextlib.nullcontext()
    # The newer interface is the one that products read, whichever was used to set it.
    return _by_backend(kind) if hasattr(torch.backends.cuda.matmul, "fp32_precision") else _by_function()


@contextlib.contextmanager
def _by_function() -> Iterator[None]:
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if precision == "highest" and not convolutions:
        yield
        return
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def _by_backend(kind: str) -> Iterator[None]:
    changed: list[tuple[Any, str]] = []
    for chain in _chains(kind):
        if chain[0].fp32_precision not in ("none", "ieee"):
            place, own = _deciding(chain)
            changed.append((place, own))
            place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, own in reversed(changed):
            place.fp32_precision = own


def _chains(kind: str) -> list[list[Any]]:
    """What says how products of matrices, and convolutions, are taken on such a device, each with what it inherits
    from, step by step. On CUDA, torch allows TF32 to convolutions unless it is told otherwise."""
    backends: Any = torch.backends
    if kind == "cpu":  # the setting of mkldnn is the one that all backends inherit
        return [[backends.mkldnn.matmul, backends], [backends.mkldnn.conv, backends]]
    # The setting of all of CUDA is cudnn's attribute.
    return [[backends.cuda.matmul, backends.cudnn, backends], [backends.cudnn.conv, backends.cudnn, backends]]


def _deciding(chain: list[Any]) -> tuple[Any, str]:
    """What to change for the first of the chain, and its own setting: the first, or the next where that is followed.

    Convolutions, which read TF32 where nothing is set at all, would keep a setting of their own if they were given one.
    """
    first, *rest = chain
    found: str = first.fp32_precision
    if rest:
        kept = _own_setting(rest)
        if _follows(first, rest[0], kept):
            return rest[0], kept
    return first, found


def _own_setting(chain: list[Any]) -> str:
    """The setting of the first of the chain itself, ``none`` where it inherits; reading it gives what is in force."""
    first, *rest = chain
    found: str = first.fp32_precision
    if not rest or rest[0].fp32_precision != found:
        return found
    return "none" if _follows(first, rest[0], _own_setting(rest)) else found


def _follows(first: Any, parent: Any, kept: str) -> bool:
    """Whether what is in force for the first follows a change of its parent, whose own setting is ``kept``."""
    found = first.fp32_precision
    parent.fp32_precision = "ieee" if found != "ieee" else "tf32"
    follows: bool = first.fp32_precision != found
    parent.fp32_precision = kept
    return follows
