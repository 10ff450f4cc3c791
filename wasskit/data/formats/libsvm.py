"""Packed LIBSVM files, in which USPS comes."""

from __future__ import annotations

import bz2
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wasskit.system.readers import Damage, reader

LARGEST_TEXT, MOST_ROWS = 1 << 25, 100_000
"""Bytes and rows up to which a LIBSVM file is unpacked: USPS has 7,291 rows in 18 million bytes. Its numbers take up to
four times as much, and each step of parsing that much again.
"""
LARGEST_FILE = 1 << 28


@reader("packed LIBSVM file", suffixes=(".bz2",), largest=LARGEST_FILE)
def read_libsvm(path: Path, width: int) -> tuple[Tensor, Tensor]:
    """Rows ``label index:value ...`` with labels and indices from 1: values (N, width) and labels (N) from 0."""
    with bz2.open(path) as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise Damage(f"it unpacks to more than {LARGEST_TEXT:,} bytes")
    if text.count(b"\n") > MOST_ROWS:
        raise Damage(f"it has more than {MOST_ROWS:,} rows")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a value that is not a number
        numbers = np.fromstring(text.replace(b":", b" "), dtype=np.float64, sep=" ")
    # By the line ends that were counted: splitlines() also ends a line at every carriage return.
    pairs = np.array([line.count(b":") for line in text.removesuffix(b"\n").split(b"\n")])
    if not len(pairs) or len(numbers) != len(pairs) + 2 * pairs.sum():
        raise Damage("a row is not a label and index:value pairs")
    starts = np.concatenate([[0], np.cumsum(2 * pairs + 1)[:-1]])
    rest = np.delete(numbers, starts)
    places, labels = rest[0::2] - 1, numbers[starts] - 1
    if not (np.isfinite(numbers).all() and ((places >= 0) & (places < width)).all()):
        raise Damage(f"a row has an index outside 1 to {width}, or a value that is not a number")
    if not ((labels >= 0) & (labels < 10)).all():
        raise Damage("a label lies outside 1 to 10")
    labels = labels.astype(np.int64)
    values = np.zeros((len(pairs), width), dtype=np.float32)
    values[np.repeat(np.arange(len(pairs)), pairs), places.astype(np.int64)] = rest[1::2]
    return torch.from_numpy(values), torch.from_numpy(labels)
