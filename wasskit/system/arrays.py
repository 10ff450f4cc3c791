"""``.npy`` and ``.npz`` files of numbers, read and begun: no pickles, no more memory than the file itself warrants."""

from __future__ import annotations

import math
import typing
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from wasskit.errors import UserError
from wasskit.system.readers import Damage, reader
from wasskit.text import short_text

if typing.TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

VECTORS = (".npy", ".npz", ".safetensors", ".parquet", ".csv")
"""Suffixes of files of embeddings (`wasskit.data.embeddings`), here where completion finds them without torch."""
NUMBERS = "fiub"
"""Kinds of arrays that are numbers: floating, signed, unsigned, truth values."""
_LAST_CHARACTER = 0x10FFFF
_FREE = 1 << 30
_RATIO = 64


@reader(".npy file of numbers", suffixes=(".npy",), advice="save it anew with numpy.save")
def read_array(path: Path, *, kinds: str = NUMBERS) -> Array:
    """The array in a ``.npy`` file: real numbers or truth values (or ``kinds``), in the machine's byte order."""
    with path.open("rb") as file:
        return _array(file, path.stat().st_size, kinds)


@reader(".npy file of numbers", suffixes=(".npy",), advice="save it anew with numpy.save")
def map_array(path: Path, *, own: bool = False, kinds: str = NUMBERS) -> Array:
    """The array in a ``.npy`` file, mapped into memory: pages are read when they are used.

    It cannot be written to; with ``own`` it can, which leaves the file as it is, and may not be larger than the memory.
    Truth values, texts and numbers in the other byte order are read as by :func:`read_array`.
    """
    import numpy as np

    with path.open("rb") as file:
        shape, fortran, dtype = _header(file, path.stat().st_size, kinds)
        start = file.tell()
    if dtype.kind in "bU" or not dtype.isnative or not math.prod(shape):
        return read_array(path, kinds=kinds)
    order: typing.Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(path, dtype, mode="c" if own else "r", offset=start, shape=shape, order=order)


@reader(".npz file of arrays", suffixes=(".npz",), advice="save it anew with numpy.savez, or get the file again")
def read_archive(path: Path, names: Sequence[str] | None = None, *, kinds: str = NUMBERS) -> dict[str, Array]:
    """The arrays of numbers (or of ``kinds``) in a ``.npz`` file, by name; only those of ``names`` where given, which
    must all be there.

    Archives that unpack to more than 1 GiB and 64 times their size are refused.
    """
    found: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if names is not None:
            missing = [name for name in names if name not in members]
            if missing:
                raise Damage(f"it lacks {', '.join(missing)} and holds {short_text(', '.join(members)) or 'nothing'}")
            members = {name: members[name] for name in names}
        total = sum(info.file_size for info in members.values())
        if total > max(_FREE, _RATIO * path.stat().st_size):
            raise Damage(f"it unpacks to {total:,} bytes")
        for name, info in members.items():
            with archive.open(info) as file:
                try:
                    found[name] = _array(file, info.file_size, kinds)
                except _NotNumeric:
                    if names is not None:
                        raise
    return found


def write_header(file: IO[bytes], shape: Sequence[int], dtype: Any) -> None:
    """The beginning of a ``.npy`` file whose numbers, in C order, are to follow some at a time.

    In plain writes, not through a memory map: on a full disk a write raises, where a map ends the process.
    """
    import numpy as np

    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


class _NotNumeric(Damage):
    """An array of text, objects, records or complex numbers."""


def _header(file: IO[bytes], size: int, kinds: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array of ``size`` bytes, header included. The header may
    not promise more than the bytes hold."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _NotNumeric("it holds no plain numbers")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in kinds or dtype.hasobject or dtype.subdtype is not None:
        raise _NotNumeric(f"it holds {_named(dtype)}, not numbers")
    if len(shape) > 32 or not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
        raise Damage("its header gives no shape")
    count = math.prod(shape)
    if count * dtype.itemsize > size - file.tell():
        raise Damage(f"it ends before the {count:,} numbers that it announces")
    return shape, fortran, dtype


def _array(file: IO[bytes], size: int, kinds: str) -> Array:
    """One array of ``size`` bytes, header included."""
    import numpy as np

    shape, fortran, dtype = _header(file, size, kinds)
    count = math.prod(shape)
    flat = np.empty(count, np.uint8 if dtype.kind == "b" else dtype)
    room = memoryview(flat.view(np.uint8))  # type: ignore[arg-type]
    while len(room):
        got = file.readinto(room)  # type: ignore[attr-defined]
        if not got:
            raise Damage(f"it ends before the {count:,} numbers that it announces")
        room = room[got:]
    # Booleans must be stored as bytes 0 and 1.
    array = flat != 0 if dtype.kind == "b" else flat.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and int(array.view(np.uint32).max(initial=0)) > _LAST_CHARACTER:
        raise Damage("its texts hold what is no character")
    return array.reshape(shape, order="F" if fortran else "C")


def _named(dtype: Any) -> str:
    if dtype.hasobject:
        return "Python objects"
    return {"U": "text", "S": "bytes", "c": "complex numbers", "V": "records"}.get(dtype.kind, "dates")


def check_rows(rows: Array, where: str) -> None:
    """Raises ``UserError`` unless ``rows`` are two or more points (N, D) without NaN or infinity."""
    import numpy as np

    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise UserError(f"{where} has shape {rows.shape}: expected at least two rows of coordinates.")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise UserError(
            f"{where} has {int(bad.sum())} rows with values that are not finite, the first is row {int(bad.argmax())}: "
            "remove them."
        )
