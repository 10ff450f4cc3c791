"""MATLAB files of version 5, in the part that annotations are written in: cells, structures, texts and real numbers.

scipy's reader believes what a file announces: lengths that are altered take any memory, and altered types end the
process. Here every length is compared with the bytes that are there before anything is made of it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wasskit.system.readers import Damage, reader

LARGEST = 1 << 28
"""Bytes of the largest file, and of what it unpacks to: the annotations of 16,185 cars take less than ten million."""
_DEEPEST = 8
_MATRIX, _PACKED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)
_COMPLEX = 0x0800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


@reader("MATLAB file of version 5", suffixes=(".mat",), advice="get the data set again", largest=LARGEST)
def read_mat(path: Path) -> dict[str, list[Any]]:
    """The variables of a file, by name, each the list of its entries in MATLAB's order (columns first).

    The entries of a cell are lists; those of an array of structures dictionaries of lists; a text is a list of its
    one line; numbers are floats.
    """
    data = path.read_bytes()
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise Damage("it does not begin as such a file does")
    order = "<" if data[126:128] == b"IM" else ">"
    return dict(_matrix(body, order, 0) for body in _variables(data, order))


def _variables(data: bytes, order: str) -> Iterator[memoryview]:
    """The content of each array of a file, unpacked."""
    place, unpacked = 128, 0
    while place < len(data):
        kind, size = _tag(data, place, order)
        body = data[place + 8 : place + 8 + size]
        place += 8 + size
        if len(body) < size:
            raise Damage("it ends too early")
        if kind == _PACKED:
            packed = zlib.decompressobj()
            body = packed.decompress(body, LARGEST - unpacked)
            if packed.unconsumed_tail or not packed.eof:
                raise Damage(f"a part of it is damaged, or unpacks to more than {LARGEST:,} bytes")
            unpacked += len(body)
            kind, size = _tag(body, 0, order)
            body = body[8 : 8 + size]
        if kind != _MATRIX or len(body) < size:
            raise Damage("it holds something else than arrays")
        yield memoryview(body)


def _tag(data: bytes | memoryview, place: int, order: str) -> tuple[int, int]:
    if place + 8 > len(data):
        raise Damage("it ends too early")
    kind, size = struct.unpack_from(f"{order}II", data, place)
    return kind, size


def _element(data: memoryview, place: int, order: str) -> tuple[int, memoryview, int]:
    """The type and the content of the element at ``place``, and the place of the next."""
    kind, size = _tag(data, place, order)
    if kind >> 16:  # a small one: both in the first four bytes, the content in the next
        size = kind >> 16
        if size > 4:
            raise Damage("an element is longer than its place")
        return kind & 0xFFFF, data[place + 4 : place + 4 + size], place + 8
    end = place + 8 + size
    if end > len(data):
        raise Damage("it ends too early")
    return kind, data[place + 8 : end], end + (-end % 8 if kind != _MATRIX else 0)


def _matrix(data: memoryview, order: str, depth: int) -> tuple[str, list[Any]]:
    """The name and the entries of one array."""
    if not len(data):
        return "", []  # an empty array may leave everything out
    if depth > _DEEPEST:
        raise Damage("it is nested too deeply")
    _, flags, place = _element(data, 0, order)
    _, dims, place = _element(data, place, order)
    _, name, place = _element(data, place, order)
    if len(flags) != 8 or len(dims) % 4 or not 8 <= len(dims) <= 128:
        raise Damage("an array has no class or no shape")
    (word,) = struct.unpack_from(f"{order}I", flags)
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    count = math.prod(shape)
    if min(shape) < 0 or count > len(data):
        raise Damage("an array announces more entries than its bytes can hold")
    title, kind = bytes(name).decode("latin1"), word & 0xFF
    if kind in _NUMBERS and not word & _COMPLEX:
        return title, _numbers(data, place, order, count)
    if kind == _CHAR:
        return title, _text(data, place, order)
    if kind not in (_CELL, _STRUCT):
        raise Damage("it holds something else than cells, structures, texts and real numbers")
    names: list[str] = []
    if kind == _STRUCT:
        names, place = _field_names(data, place, order)
    entries: list[Any] = []
    for number in range(count * (len(names) or 1)):
        inner, content, place = _element(data, place, order)
        if inner != _MATRIX:
            raise Damage("it holds something else than arrays")
        value = _matrix(content, order, depth + 1)[1]
        if not names:
            entries.append(value)
            continue
        if number % len(names) == 0:
            entries.append({})
        entries[-1][names[number % len(names)]] = value
    return title, entries


def _field_names(data: memoryview, place: int, order: str) -> tuple[list[str], int]:
    """The names of the fields of a structure, each of one width with zeros behind it."""
    _, width, place = _element(data, place, order)
    _, names, place = _element(data, place, order)
    (each,) = struct.unpack(f"{order}i", width) if len(width) == 4 else (0,)
    if each <= 0 or not len(names) or len(names) % each:
        raise Damage("a structure has no names")
    text = bytes(names)
    return [text[i : i + each].partition(b"\0")[0].decode("latin1") for i in range(0, len(text), each)], place


def _numbers(data: memoryview, place: int, order: str, count: int) -> list[Any]:
    if not count:
        return []
    kind, content, _ = _element(data, place, order)
    dtype = np.dtype(_DTYPES[kind]).newbyteorder("<" if order == "<" else ">") if kind in _DTYPES else None
    if dtype is None or len(content) != count * dtype.itemsize:
        raise Damage("an array of numbers has others than it announces")
    return list(map(float, np.frombuffer(content, dtype).tolist()))


def _text(data: memoryview, place: int, order: str) -> list[Any]:
    if place >= len(data):
        return [""]
    kind, content, _ = _element(data, place, order)
    if kind not in _TEXTS:
        raise Damage("a text is of no known encoding")
    wide = {"<": "utf-16-le", ">": "utf-16-be"}[order]
    encoding = wide if _TEXTS[kind] == "utf-16" else _TEXTS[kind]
    return [bytes(content).decode(encoding)]
