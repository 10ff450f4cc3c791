"""Files changed at random: blind to their format, and by its structure. All is a function of the generator."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

INTEGERS = (
    0,
    1,
    2,
    3,
    127,
    255,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63,
    2**64 - 1,
    2**80,
    -1,
    -(2**31),
)
DIGITS = (*map(str, INTEGERS), "9" * 400, "9" * 5000, "1e999", "-1e999", "nan", "1e308", "00", "0x7fffffff", "1.5")
WORDS = (
    "", " ", "\n", ",", ";", "\t", '"', "'", '"""', "[", "]", "{", "}", "[[", "=", ".", ":", "#", "\0", "\\", "\\u0000",
    "null", "true", "inf", "NaN", "[" * 3000, '{"a":' * 3000, ".".join("a" * 4000), "a = 1\n" * 2, "ÿ", "\ufeff",
    "../../etc", "=1+1", "1979-05-27", "[a.b.c]", "x" * 10000, "None", "object", "|O", ">f8", "V8", "F64", "I64", "train",
)  # fmt: skip


def mutate(data: bytes, kind: str, rng: Random) -> bytes:
    """A file of a kind (see ``STRUCTURED``) changed once or a few times."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        structured = STRUCTURED.get(kind)
        try:
            change = structured if structured is not None and rng.random() < 0.6 else blind
            data = change(data, rng)
        except Exception:  # what was changed before is no longer of the kind
            data = blind(data, rng)
    return data


def blind(data: bytes, rng: Random) -> bytes:
    """Bits, pieces, lengths and numbers, wherever they are."""
    out, size = bytearray(data), max(len(data), 1)
    # Headers and trailers are where the structure is.
    place = rng.choice((rng.randrange(size), rng.randrange(min(size, 256)), size - 1 - rng.randrange(min(size, 128))))
    length = rng.choice((1, 2, 4, 16, 256, size // 3 + 1))
    match rng.randrange(9):
        case 0:
            for _ in range(rng.choice((1, 2, 8))):
                if out:
                    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        case 1:
            del out[place:]
        case 2:
            del out[place : place + length]
        case 3:
            piece = bytes(out[place : place + length])
            where = rng.randrange(size)
            out[where:where] = piece
        case 4:
            out[place : place + length] = rng.randbytes(min(length, 4096))
        case 5:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTEGERS) % (1 << (8 * width))
            out[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))
        case 6:
            return number(data, rng)
        case 7:
            out += rng.choice((b"\0" * 64, rng.randbytes(64), bytes(out[:256])))
        case _:
            return b"" if rng.random() < 0.1 else number(data, rng)
    return bytes(out)


def number(data: bytes, rng: Random) -> bytes:
    """A decimal number in the first or last 64 KiB replaced by an extreme one."""
    found = [*re.finditer(rb"\d+", data[:65536])]
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(DIGITS).encode() + data[match.end() :]


def text(data: bytes, rng: Random) -> bytes:
    """A token of a text replaced, repeated, moved or left out."""
    tokens = re.findall(r"\w+|\s+|[^\w\s]", data.decode("utf-8", "surrogateescape"))
    place = rng.randrange(len(tokens))
    match rng.randrange(5):
        case 0:
            tokens[place] = rng.choice(WORDS)
        case 1:
            tokens.insert(place, rng.choice((*WORDS, *DIGITS)))
        case 2:
            del tokens[place]
        case 3:
            other = rng.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        case _:
            tokens[place] = rng.choice(DIGITS)
    return "".join(tokens).encode("utf-8", "surrogateescape")


def json_text(data: bytes, rng: Random) -> bytes:
    """A value anywhere in a JSON document replaced by one of another type or size."""
    if rng.random() < 0.4:
        return text(data, rng)
    content = json.loads(data)
    places: list[tuple[dict | list, str | int]] = []  # type: ignore[type-arg]
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            places += [(value, key) for key in keys]
            waiting += [value[key] for key in keys]
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]  # type: ignore[arg-type]
    else:
        values: tuple[Any, ...] = (
            None,
            True,
            [],
            {},
            "",
            "x",
            -1,
            0,
            1e308,
            2**31,
            2**70,
            10**400,
            [1] * 100,
            {"dim": 1},
            [[]],
            "1",
            0.5,
        )
        holder[key] = rng.choice(values)  # type: ignore[index]
    return json.dumps(content).encode()


def npy(data: bytes, rng: Random) -> bytes:
    """The dictionary in the header of a ``.npy`` file, with its length and padding set right or not."""
    (length,) = struct.unpack_from("<H", data, 8)
    header = data[10 : 10 + length].strip()
    header = rng.choice((text, number))(header, rng) if rng.random() < 0.6 else re.sub(
        rb"\([^)]*\)", rng.choice((b"()", b"(0,)", b"(-1, 2)", b"(2**9,)", b"(1" + b",1" * 40 + b")", b"(0, 9999999999999)",
                                   b"(True, 2)", b"(1.0,)", b"((((", b"(9223372036854775807, 2)")), header)  # fmt: skip
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return data[:8] + struct.pack("<H", min(len(padded), 65535)) + padded + data[10 + length :]


def archive(inner: str) -> Callable[[bytes, Random], bytes]:
    """A member of a zip archive changed, under a right checksum; or a member too many, too few, renamed or packed."""

    def change(data: bytes, rng: Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            members = [(info.filename, source.read(info)) for info in source.infolist()]
        place = rng.randrange(len(members))
        name, content = members[place]
        match rng.randrange(8):
            case 0:
                del members[place]
            case 1:
                members[place] = (rng.choice(("../" + name, name + "x", "x.npy", "data.pkl")), content)
            case 2:
                members.append((name, content[: len(content) // 2]))
            case _:
                kind = "pickle" if name.endswith(".pkl") else inner
                members[place] = (name, mutate(content, kind, rng))
        out = io.BytesIO()
        method = zipfile.ZIP_DEFLATED if rng.random() < 0.15 else zipfile.ZIP_STORED
        with zipfile.ZipFile(out, "w", method) as target:
            for name, content in members:
                target.writestr(zipfile.ZipInfo(name), content, method)
        return out.getvalue()

    return change


def pickled(data: bytes, rng: Random) -> bytes:
    """Opcodes of a pickle left out, repeated, exchanged, or with other arguments."""
    places = [position for _, _, position in pickletools.genops(data) if position is not None]
    if len(places) > 5000:
        places = places[:2000] + places[-2000:]
    place = rng.randrange(len(places) - 1)
    start, end = places[place], places[place + 1]
    extras = (
        b"0", b"1", b"2", b"(", b")", b"]", b"}", b"N", b"\x88", b"R", b"b", b"\x85", b"\x86", b"\x87", b"s", b"a", b"e",
        b"u", b"t", b"l", b"d", b"\x81", b"\x93", b"\x94", b".", b"\x8f", b"\x90", b"\x91", b"Q", b"cos\nsystem\n",
        b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"h\x00", b"q\x00",
        b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x00", b"\x95" + b"\xff" * 8, b"G\x7f\xf0" + b"\0" * 6, b"2\x86" * 40,
    )  # fmt: skip
    match rng.randrange(5):
        case 0:
            return data[:start] + data[end:]
        case 1:
            return data[:end] + data[start:end] + data[end:]
        case 2:
            other = rng.randrange(len(places) - 1)
            return data[:start] + data[places[other] : places[other + 1]] + data[end:]
        case 3:
            return data[:start] + rng.choice(extras) + data[end:]
        case _:
            return data[:start] + rng.choice(extras) + data[start:]


def safetensors(data: bytes, rng: Random) -> bytes:
    """The JSON header of a safetensors file, and our own within it, with its length set right or not."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    own = header.get("__metadata__", {}).get("wasskit")
    if own is not None and rng.random() < 0.6:
        header["__metadata__"]["wasskit"] = json_text(own.encode(), rng).decode("utf-8", "replace")
        changed = json.dumps(header).encode()
    else:
        changed = json_text(json.dumps(header).encode(), rng)
    size = rng.choice((length, 2**63, 0)) if rng.random() < 0.05 else len(changed)
    return struct.pack("<Q", size) + changed + data[8 + length :]


_BOMB, _LARGE = 300 << 20, 1 << 24
"""Bytes of what a small file unpacks to, and from which the content of a packed file is not changed any more."""


@functools.cache
def _bomb(pack: Callable[[bytes], bytes], piece: bytes) -> bytes:
    return pack(piece * (_BOMB // len(piece)))


def packed(
    unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], inner: str
) -> Callable[[bytes, Random], bytes]:
    """The content of a packed file changed, or what is packed repeated or cut."""

    def change(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.25:
            return data[:-8] + rng.randbytes(8) if rng.random() < 0.5 else data + data[: rng.randrange(len(data))]
        if rng.random() < 0.01:
            # Zeros, line ends of two kinds, numbers, and pairs of a sparse row.
            return _bomb(pack, rng.choice((b"\0", b"\n", b"\r", b"1 ", b"1:1 ")))
        content = unpack(data)
        # The changes of a text take fifty times its size.
        return data[: len(data) // 2] if len(content) > _LARGE else pack(mutate(content, inner, rng))

    return change


def idx(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    if rng.random() < 0.4:
        out[rng.randrange(4)] = rng.choice((0, 1, 3, 8, 9, 14, 255))
    else:
        place = 4 + 4 * rng.randrange(max(out[3], 1))
        out[place : place + 4] = (rng.choice(INTEGERS) % 2**32).to_bytes(4, "big")
    return bytes(out)


def png(data: bytes, rng: Random) -> bytes:
    """A chunk of a PNG changed, left out or repeated, under a right checksum."""
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    where = rng.randrange(len(chunks))
    kind, body = chunks[where]
    if kind == b"IHDR" or rng.random() < 0.3:
        where = 0
        kind, body = chunks[0]
        sides = [rng.choice((0, 1, 7, 30000, 5000, 2**31 - 1, 100000)) for _ in range(2)]
        body = struct.pack(">II", *sides) + body[8:] if rng.random() < 0.6 else blind(body, rng)
        chunks[0] = (kind, body)
    elif rng.random() < 0.5:
        chunks[where] = (rng.choice((kind, b"iCCP", b"tEXt", b"zTXt", b"acTL", b"tRNS", b"PLTE")), blind(body, rng))
    else:
        chunks[where : where + 1] = rng.choice(([], [chunks[where]] * 2))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiff(data: bytes, rng: Random) -> bytes:
    """A field of an entry of the first directory of a TIFF: tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entry = start + 2 + 12 * rng.randrange(count)
    out = bytearray(data)
    offset, width = rng.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 4), (8, 2)))
    value = rng.choice((*INTEGERS, *range(12), 256, 257, 30000, start, len(data))) % (1 << (8 * width))
    out[entry + offset : entry + offset + width] = value.to_bytes(width, "little" if order == "<" else "big")
    return bytes(out)


def matlab(data: bytes, rng: Random) -> bytes:
    """An unpacked variable of a MATLAB file changed and packed again."""
    size = struct.unpack_from("<I", data, 132)[0]
    inner = zlib.decompress(data[136 : 136 + size])
    changed = zlib.compress(blind(inner, rng))
    return data[:128] + struct.pack("<II", 15, len(changed)) + changed + data[136 + size :]


STRUCTURED: dict[str, Callable[[bytes, Random], bytes]] = {
    "text": text,
    "json": json_text,
    "npy": npy,
    "npz": archive("npy"),
    "torch": archive("bytes"),
    "pickle": pickled,
    "safetensors": safetensors,
    "gzip": packed(gzip.decompress, functools.partial(gzip.compress, compresslevel=1), "idx"),
    "bz2": packed(bz2.decompress, functools.partial(bz2.compress, compresslevel=1), "text"),
    "idx": idx,
    "png": png,
    "tiff": tiff,
    "mat": matlab,
}
"""Changes that know a format; other kinds are changed blindly."""
