"""Plain values and arrays from untrusted pickles.

An unpickler calls what the file names, and numpy's own factories do not check their arguments: a crafted state of
``numpy.dtype`` or ``ndarray`` reads the memory of the process or ends it. Here nothing of numpy is ever called. Names
resolve to inert stand-ins that record what they are given and refuse what is not the plain state of a contiguous array
of uint8 or int64; the arrays are made afterwards, from bytes of exactly the right length.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wasskit.system.readers import Damage, reader

LARGEST = 1 << 30
"""Bytes of the largest file: that of CIFAR-100 has 155 million."""
DTYPES = dict.fromkeys(("u1", "|u1", "uint8", "B"), np.uint8) | dict.fromkeys(("i8", "<i8", "int64", "q"), np.int64)
# A sound state of a dtype: the version, the order of bytes, and no fields, shape or flags.
_DTYPE_STATES = tuple((3, order, None, None, None, -1, -1, 0) for order in "|<=")


@reader("pickle of plain values and arrays", suffixes=("", ".pkl"), advice="get the data set again", largest=LARGEST)
def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and arrays of uint8 or int64, keys as str, lists by reference."""
    content = _Unpickler(path.read_bytes()).load()
    if type(content) is not dict:
        raise Damage("it holds no dictionary")
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: value.array() if type(value) is _Array else value
        for key, value in content.items()
    }


class _Placeholder:
    """What a name in a pickle stands for. It keeps no state that a pickle gives it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Damage("it sets the state of what has none")


class _NdarrayType(_Placeholder):
    """``numpy.ndarray``, which is only ever handed to a factory."""

    __slots__ = ()


class _Factory(_Placeholder):
    """A function that a pickle may call."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


class _Dtype:
    """A dtype by its name."""

    __slots__ = ("name",)

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if type(name) is not str or name not in DTYPES:
            raise Damage("it holds arrays of other numbers than bytes and 64-bit integers")
        self.name = name

    def __setstate__(self, state: Any) -> None:
        # Types are compared as well: True == 1, and a subclass may say anything.
        if type(state) is not tuple or state not in _DTYPE_STATES or any(type(e) is bool for e in state):
            raise Damage("it changes what an array's numbers are")


class _Array:
    """An array by the bytes of its numbers, once it has its state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: tuple[str, tuple[int, ...], bytes] | None = None

    def __setstate__(self, state: Any) -> None:
        """``(version, shape, dtype, fortran, bytes)``, as ``ndarray.__reduce__`` gives it."""
        if type(state) is not tuple or len(state) != 5 or type(state[0]) is not int or state[0] != 1:
            raise Damage("an array has a state of another form")
        _, shape, dtype, fortran, raw = state
        if fortran is not False:
            raise Damage("an array is not stored row by row")
        # From Python 2 the bytes come as text.
        self.set(shape, dtype, raw.encode("latin1") if type(raw) is str else raw)

    def set(self, shape: Any, dtype: Any, raw: Any) -> None:
        if self.state is not None:
            raise Damage("an array is given twice")
        if type(dtype) is not _Dtype or type(raw) not in (bytes, bytearray):
            raise Damage("an array is not given by its bytes")
        if type(shape) is not tuple or len(shape) > 4 or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
            raise Damage("an array has no shape")
        if len(raw) != math.prod(shape) * np.dtype(DTYPES[dtype.name]).itemsize:
            raise Damage("an array has more or fewer bytes than its shape asks for")
        self.state = (dtype.name, shape, bytes(raw))

    def array(self) -> NDArray[Any]:
        if self.state is None:
            raise Damage("an array has no content")
        name, shape, raw = self.state
        return np.frombuffer(raw, DTYPES[name]).reshape(shape)


_NDARRAY = _NdarrayType()


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY or shape != (0,) or code not in ("b", b"b"):
        raise Damage("it makes something else than an array")
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if order != "C" and not (order == "F" and type(shape) is tuple and len(shape) == 1):
        raise Damage("an array is not stored row by row")
    array = _Array()
    array.set(shape, dtype, raw)
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise Damage("it encodes something else than bytes")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], _Placeholder] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Factory(_Dtype),
    ("_codecs", "encode"): _Factory(_encode),
    # Under the names of numpy 1 and of numpy 2.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Factory(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Factory(_from_buffer) for core in ("core", "_core")},
}

_OPCODES = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT LONG LONG1 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING
    SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
# Its methods are undocumented, and unchanged since Python 3.8.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """The unpickler in Python, not that in C: a place in the memo of 2^31 costs it an entry, not 32 GB.

    It knows the opcodes that lists, dictionaries, texts, numbers and arrays are written in. Sets and keys that are not
    texts are left out: to hash tuples of tuples of tuples takes time without end.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: _PythonUnpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPCODES.split())
    }

    def __init__(self, data: bytes) -> None:
        # From memory, so that no announced length is reserved before it is read.
        super().__init__(io.BytesIO(data), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise Damage(f"it asks for {module[:40]}.{name[:40]}, which no array file needs") from None

    def load_bytearray(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        if length > LARGEST or len(data := self.read(length)) != length:
            raise Damage("it ends too early")
        self.append(bytearray(data))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2 or any(type(key) not in (str, bytes) for key in items[::2]):
            raise Damage("it has keys that are not strings")
        target.update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
