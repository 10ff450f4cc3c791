"""Packs: the images of one split, decoded and cut to one square size, in a file that is mapped into memory.

Numbers are little-endian, the first byte is byte 0, and nothing is compressed:

=================  ============================================================================================
bytes              content
=================  ============================================================================================
0 to 7             ``WASSPACK``
8 to 11            version of the format, 1 (uint32)
12 to 15           H, the length of the header (uint32)
16 to 19           CRC-32 of the header (uint32)
20 to 19 + H       the header, JSON in UTF-8 with the fields of :class:`PackHeader`
P, then N C S S    pixels (uint8): N images of C channels, S rows and S columns; P is the first multiple of 4,096
                   behind the header
then 8 N           labels (int64) into the header's classes, -1 for an image without one
then 4 K + 4       CRC-32 (uint32) of the pixels of each of K = ceil(N / 64) chunks of 64 images, and of the labels
=================  ============================================================================================

The file ends there. Its length follows from the header, so that a file cut short is refused before it is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import typing
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.system.readers import Damage, reader

if typing.TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SUFFIX = ".pack"
CHUNK = 64
_MAGIC, _VERSION = b"WASSPACK", 1
_PREFIX = struct.Struct("<8sIII")
_PAGE = 4096
_LONGEST_HEADER = 1 << 24
_MOST_IMAGES = 1 << 40
_LARGEST_SIDE = 1 << 12


@dataclass(frozen=True, kw_only=True)
class PackHeader:
    """What a pack says of itself.

    Args:
        source: the name of the data set that was packed, ``split`` which of its splits.
        images: a digest of its images' names, sizes in bytes and times of change, in order: a pack that is begun is
            finished with the same ones. Earlier versions took the names alone.
        count, channels, side: N, C and S.
        image_size: the side in pixels that the set is used at, less than S where evaluation crops a margin.
        mean, std: the normalisation, one number per channel, in [0, 1].
        classes: names of the classes that labels number; ``labelled``: whether any image has a label.
        notes: sentences worth showing, of images left out, say.
    """

    source: str
    split: str
    images: str
    count: int
    channels: int
    side: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    labelled: bool
    notes: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """The beginning of the file, up to the pixels."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False).encode()
        prefix = _PREFIX.pack(_MAGIC, _VERSION, len(text), zlib.crc32(text))
        return (prefix + text).ljust(_aligned(_PREFIX.size + len(text)), b"\0")

    @property
    def image_bytes(self) -> int:
        return self.channels * self.side**2

    @property
    def chunks(self) -> int:
        return -(-self.count // CHUNK)


@dataclass(frozen=True)
class Pack:
    """An open pack: its header, where its parts begin in the file, labels (N,) int64 and checksums (K + 1,) uint32."""

    path: Path
    header: PackHeader
    pixels_at: int
    labels: Array
    sums: Array

    @property
    def labels_at(self) -> int:
        return self.pixels_at + self.header.count * self.header.image_bytes

    @property
    def sums_at(self) -> int:
        return self.labels_at + 8 * self.header.count

    def map_pixels(self) -> Array:
        """(N, C * S * S) uint8, mapped: pages are read when they are used."""
        import numpy as np

        shape = self.header.count, self.header.image_bytes
        return np.memmap(self.path, np.uint8, mode="r", offset=self.pixels_at, shape=shape)

    def damaged(self) -> Iterator[tuple[int, bool]]:
        """``(images, right)`` of each chunk in order: how many images lie before its end, and whether its pixels have
        their checksum. Reads the whole file."""
        with self.path.open("rb") as file:
            file.seek(self.pixels_at)
            for chunk in range(self.header.chunks):
                end = min((chunk + 1) * CHUNK, self.header.count)
                content = file.read((end - chunk * CHUNK) * self.header.image_bytes)
                yield end, zlib.crc32(content) == int(self.sums[chunk])


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


@reader("pack of images", suffixes=(SUFFIX,), advice="make it again with `wasskit data pack`")
def read_pack(path: Path) -> Pack:
    """The header, labels and checksums of a pack; pixels are neither read nor checked (`Pack.damaged` does that)."""
    return open_pack(path)


def open_pack(path: Path) -> Pack:
    """As `read_pack`, of a file that may be unfinished. Raises `Damage`, or whatever a damaged file leads to."""
    import numpy as np

    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
            raise Damage("it does not begin as one")
        _, version, length, crc = _PREFIX.unpack(prefix)
        if version != _VERSION:
            raise Damage(f"it has version {version} of the format, and this wasskit reads version {_VERSION}")
        if length > _LONGEST_HEADER:
            raise Damage(f"it announces a header of {length:,} bytes, more than the {_LONGEST_HEADER:,} of any")
        text = file.read(length)
        if len(text) < length or zlib.crc32(text) != crc:
            raise Damage("its header is damaged or cut short")
        header = _checked(json.loads(text))
        pixels_at = _aligned(_PREFIX.size + length)
        labels_at = pixels_at + header.count * header.image_bytes
        expected = labels_at + 8 * header.count + 4 * (header.chunks + 1)
        if size != expected:
            raise Damage(f"it has {size:,} bytes, and its {header.count:,} images need {expected:,}")
        file.seek(labels_at)
        stored = file.read(8 * header.count)
        sums = np.frombuffer(file.read(4 * (header.chunks + 1)), "<u4")
    labels = np.frombuffer(stored, "<i8").astype(np.int64)
    if zlib.crc32(stored) != int(sums[-1]):
        raise Damage("its labels do not have their checksum")
    if labels.min() < -1 or labels.max() >= len(header.classes):
        raise Damage(f"it has labels outside its {len(header.classes):,} classes")
    return Pack(path, header, pixels_at, labels, sums)


def _checked(content: Any) -> PackHeader:
    """A header whose every field is what it should be."""
    names = {field.name for field in dataclasses.fields(PackHeader)}
    if not isinstance(content, dict) or set(content) != names:
        raise Damage("its header does not have the fields of one")
    numbers = {"count": _MOST_IMAGES, "side": _LARGEST_SIDE, "image_size": _LARGEST_SIDE}
    for name, most in numbers.items():
        if type(content[name]) is not int or not 1 <= content[name] <= most:
            raise Damage(f"its header gives {name} as something other than a number from 1 to {most:,}")
    if content["channels"] not in (1, 3) or type(content["channels"]) is not int:
        raise Damage("its images have neither 1 nor 3 channels")
    for name in ("source", "split", "images"):
        if not isinstance(content[name], str):
            raise Damage(f"its header gives {name} as something other than text")
    for name in ("classes", "notes"):
        if not isinstance(content[name], list) or not all(isinstance(text, str) for text in content[name]):
            raise Damage(f"its header gives {name} as something other than a list of texts")
    for name in ("mean", "std"):
        if not isinstance(content[name], list) or len(content[name]) != content["channels"]:
            raise Damage(f"its header does not give {name} by channel")
        if not all(type(x) is float and math.isfinite(x) and (x > 0 or name == "mean") for x in content[name]):
            raise Damage(f"its header gives {name} as something other than numbers")
    if type(content["labelled"]) is not bool:
        raise Damage("its header does not say whether it is labelled")
    lists = {name: tuple(content[name]) for name in ("mean", "std", "classes", "notes")}
    return PackHeader(**{**content, **lists})
