"""The idx files of MNIST."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wasskit.system.readers import Damage, reader

LARGEST_UNPACKED = 1 << 28
"""Bytes up to which a packed file is unpacked: MNIST's largest has 47 million, a small file can hold any number."""


@reader("idx file of bytes", suffixes=("", ".gz"), largest=LARGEST_UNPACKED)
def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes, packed or not: ``(N,)`` or ``(N, H, W)``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 3:
            raise Damage("it does not begin as one of bytes does")
        shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
        announced, size = f"its header announces {' x '.join(map(str, shape))} bytes", math.prod(shape)
        if size > LARGEST_UNPACKED:
            raise Damage(f"{announced}, more than the {LARGEST_UNPACKED:,} of any such file")
        body = file.read(size)
        if len(body) < size:
            raise Damage(f"{announced}, it holds {len(body):,}")
        if file.read(1):
            raise Damage(f"{announced}, it holds more")
    # A copy, for numpy does not write to bytes.
    array: NDArray[np.uint8] = np.frombuffer(body, np.uint8).reshape(shape).copy()
    return array
