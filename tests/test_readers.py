"""Every function that opens a file from outside is declared a reader; hostile files of the kinds that were met."""

from __future__ import annotations

import ast
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wasskit.data.base import UnreadableImage, read_image
from wasskit.data.folder import list_images, load_folder
from wasskit.data.formats.pickles import read_pickle
from wasskit.errors import UserError
from wasskit.system.documents import read_json, read_toml
from wasskit.system.readers import READERS, Damage, reader

PACKAGE = Path(__file__).parents[1] / "wasskit"
PARSERS = {
    "np.load", "numpy.load", "np.fromfile", "np.memmap", "np.loadtxt", "np.genfromtxt", "np.fromstring", "json.load",
    "json.loads", "tomllib.load", "tomllib.loads", "tomli.load", "tomli.loads", "Image.open", "opened", "torch.load",
    "load_file", "safe_open", "gzip.open", "gzip.decompress", "bz2.open", "bz2.decompress", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "_Unpickler", "zipfile.ZipFile", "loadmat", "csv.reader", "csv.DictReader", "tifffile.TiffFile",
    "tifffile.imread", "ParquetFile", "parquet.ParquetFile", "read_text", "read_bytes",
}  # fmt: skip
ALLOWED = {
    ("data/images.py", "opened"): "opens images for the readers",
    ("data/decode.py", "scan_images"): "whatever is wrong is found again by the reader of images",
    ("data/sets/cifar10_jpeg.py", "read"): "bytes in memory, out of a file that is read",
    (
        "data/sets/imagenet100.py",
        "__call__",
    ): "bytes in memory, or a path that `opened` checks; errors are noted by _read",
    ("data/formats/parquet.py", "_file"): "called by the readers of Parquet files alone, and inside of `reading`",
    ("data/formats/pack.py", "open_pack"): "called by the reader of packs; and of a draft, which any damage discards",
    ("data/formats/pack.py", "map_pixels"): "pixels of a file that is read",
    ("training/trainer.py", "fit"): "an `opened` of its own, which opens no file",
    ("data/sets/digits.py", "_table"): "a file of scikit-learn's own",
    ("data/sets/cifar.py", "_altered"): "a checksum of bytes",
    ("plugins/study/published.py", "_table"): "a file of our own",
    ("system/documents.py", "parse_json"): "text out of a file that is read",
    ("completion.py", "install"): "the user's own start-up file, appended to",
    ("commands/recipes/copy.py", "body"): "bytes of a recipe that is checked before",
    ("plugins/plot/html.py", "figures"): "figures just drawn",
    ("plugins/plot/html.py", "_own_file"): "a file of our own",
    ("distributed/launch.py", "_describe_saved"): "notes that the ranks have just left for their launcher",
}


def _called(node: ast.Call) -> str:
    """``np.load`` of ``np.load(...)``; of a method of an expression its name alone."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return f"{owner.id}.{node.func.attr}" if isinstance(owner, ast.Name) else node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _declared(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(mark, ast.Call) and _called(mark) == "reader" for mark in node.decorator_list
    )


def _loose_calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str, int]]:
    """Calls of parsers outside declared readers: the function that they are in, the parser, the line."""
    for node in ast.iter_child_nodes(tree):
        if _declared(node):
            continue
        if isinstance(node, ast.Call):
            name = _called(node)
            plain = name.rpartition(".")[2]
            # The readers of the same names take their path as an argument; those of a path take none.
            method = plain in ("read_text", "read_bytes") and isinstance(node.func, ast.Attribute)
            if name in PARSERS - {"read_text", "read_bytes"} or method:
                yield function, name, node.lineno
        yield from _loose_calls(node, node.name if isinstance(node, ast.FunctionDef) else function)


@pytest.mark.slow
def test_no_file_is_parsed_outside_a_declared_reader() -> None:
    loose = [
        f"{path.relative_to(PACKAGE)}:{line} calls {name} in {function or 'the module'}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for function, name, line in _loose_calls(ast.parse(path.read_text(encoding="utf-8")))
        if (path.relative_to(PACKAGE).as_posix(), function) not in ALLOWED
    ]
    assert not loose, "declare these by @reader (wasskit/system/readers.py):\n" + "\n".join(loose)


def test_the_search_finds_what_it_should() -> None:
    source = """
@reader("x", suffixes=())
def good(path):
    def inner():
        return np.load(path)
    return inner()

def bad(path):
    return [json.loads(path.read_text()), (path / "a").read_bytes()]
"""
    found = [(function, name) for function, name, _ in _loose_calls(ast.parse(source))]
    assert found == [("bad", "json.loads"), ("bad", "path.read_text"), ("bad", "read_bytes")]


# --- What a declaration does ------------------------------------------------------------------------------------------


@pytest.fixture
def parse() -> Iterator[object]:
    @reader("test file", suffixes=(".x",), advice="make it anew", largest=10)
    def parse(path: Path) -> object:
        error: dict[bytes, Exception] = {
            b"damage": Damage("its heart is missing"), b"deep": RecursionError(), b"large": MemoryError(),
            b"strange": ZeroDivisionError("division by zero"), b"own": UserError("in its own words"),
        }  # fmt: skip
        raise error[path.read_bytes()]

    yield parse
    del READERS[next(name for name in READERS if "parse.<locals>" in name)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"damage", "x.x is not a readable test file: its heart is missing; make it anew."),
        (b"deep", "it is nested too deeply; make it anew."),
        (b"large", "it announces more than fits into memory; make it anew."),
        (b"strange", "it is damaged, cut short or of another kind; make it anew."),
        (b"own", "in its own words"),
        (b"12345678901", "it has 11 bytes, more than the 10 of any such file; make it anew."),
    ],
)
def test_what_a_parser_raises_becomes_one_sentence(tmp_path: Path, parse: object, content: bytes, said: str) -> None:
    assert callable(parse)
    (tmp_path / "x.x").write_bytes(content)
    with pytest.raises(UserError) as caught:
        parse(tmp_path / "x.x")
    assert str(caught.value).endswith(said)
    assert caught.value.exit_code == 2


def test_only_regular_files_are_opened(tmp_path: Path, parse: object) -> None:
    assert callable(parse)
    os.mkfifo(tmp_path / "pipe.x")
    (tmp_path / "link.x").symlink_to("/dev/zero")
    (tmp_path / "self.x").symlink_to(tmp_path / "self.x")
    for name, said in (("pipe.x", "it is a pipe"), ("link.x", "it is a device"), (".", "it is a folder")):
        with pytest.raises(UserError, match=said):
            parse(tmp_path / name)
    for name in ("self.x", "absent.x"):
        with pytest.raises(UserError):
            parse(tmp_path / name)


# --- Images -----------------------------------------------------------------------------------------------------------


def _pets(folder: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8), (40 * i, 100 * number, 0)).save(folder / name / f"{i}.png")
    return folder


def test_pipes_among_images_are_named(tmp_path: Path) -> None:
    pets = _pets(tmp_path / "pets")
    os.mkfifo(pets / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"1 of 11 images cannot be read: .*pipe\.png \(it is a pipe\)"):
        load_folder(pets)
    assert len(load_folder(pets, corrupt="skip")) == 10


def test_links_around_in_circles_are_refused(tmp_path: Path) -> None:
    pets = _pets(tmp_path / "pets")
    for link, target in (("cat/again", pets / "cat"), ("cat/up", pets), ("all", pets)):
        (pets / link).symlink_to(target)
        with pytest.raises(UserError, match=r"is a link to .*, which holds it: remove the link"):
            load_folder(pets)
        (pets / link).unlink()
    # Two links to one folder, level upon level: 2^30 paths, one image.
    for level in range(30):
        (tmp_path / f"level{level}").mkdir()
        for name in "ab":
            (tmp_path / f"level{level}" / name).symlink_to(tmp_path / f"level{level + 1}")
    (tmp_path / "level30").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "level30" / "x.png")
    assert len(list_images(tmp_path / "level0")) == 1


def test_an_image_counts_once_and_in_one_class(tmp_path: Path) -> None:
    pets = _pets(tmp_path / "pets")
    (pets / "cat" / "copy.png").symlink_to(pets / "cat" / "0.png")
    assert len(load_folder(pets)) == 10
    (pets / "cat" / "stranger.png").symlink_to(pets / "dog" / "0.png")
    with pytest.raises(UserError, match="are one image in two classes, by a link"):
        load_folder(pets)


def test_images_of_train_are_not_tested_on(tmp_path: Path) -> None:
    _pets(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "0.png").symlink_to(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"1 images of .*test are those of .*train, by links"):
        load_folder(tmp_path, "test")
    assert len(load_folder(tmp_path, "train")) == 10


def test_announced_pixels_are_believed_as_far_as_the_bytes_go(tmp_path: Path) -> None:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, said in ((10_000, "which its .* bytes cannot hold"), (30_000, "more than 178,956,970 pixels")):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(UnreadableImage, match=said):
            read_image(tmp_path / "large.png")


def test_other_formats_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableImage, match="not an image"):
        read_image(tmp_path / "x.png")


# --- Documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".".join("a" * 50_000) + " = 1", "more than 16 parts"),
        ("[" + " . ".join(['"a.b"'] * 20) + "]", "more than 16 parts"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a = 1" + "0" * 400, "more than 64 bits"),
        ("a = 1" + "0" * 5000, "not a readable TOML file"),
        ('a = "' + '\\"' * 400_000, "not valid TOML"),
        ("a = " + "1" * (1 << 20), "more than the 1,048,576"),
        ("a = \n", r"not valid TOML: Invalid value \(at line 1"),
    ],
)
def test_hostile_toml(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_toml(tmp_path / "x.toml")


def test_dots_in_strings_and_numbers_are_no_parts(tmp_path: Path) -> None:
    text = f'a.b.c = "{"x." * 50}" # {"y." * 50}\nd = {[0.5] * 100}\ne = """\n{"z." * 50}"""\n'
    (tmp_path / "x.toml").write_text(text)
    assert read_toml(tmp_path / "x.toml")["a"] == {"b": {"c": "x." * 50}}


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a": 1' + "0" * 400 + "}", "1" * 5000, "{"])
def test_hostile_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not a readable JSON file"):
        read_json(tmp_path / "x.json")


# --- Pickles ----------------------------------------------------------------------------------------------------------

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
_U1 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1\x89\x88tR"


def _batch(value: bytes, after: bytes = b"") -> bytes:
    """A pickled dictionary with ``data``: ``value``."""
    return b"\x80\x04}X\x04\x00\x00\x00data" + value + b"s" + after + b"."


def _state(
    shape: bytes = b"K\x02\x85", dtype: bytes = _U1, raw: bytes = b"C\x02ab", version: bytes = b"K\x01"
) -> bytes:
    return _ARRAY + b"(" + version + shape + dtype + b"\x89" + raw + b"tb"


_CRAFTED = {
    "longer than its bytes": _state(shape=b"J\xff\xff\xff\x7f\x85"),
    "shorter than its bytes": _state(shape=b"K\x01\x85"),
    "negative sides": _state(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
    "truth as a side": _state(shape=b"\x88K\x02\x86"),
    "sides as a list": _state(shape=b"]K\x02a"),
    "object dtype": _state(dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR", raw=b"C\x08abcdefgh"),
    "dtype of a dictionary": _state(dtype=b"cnumpy\ndtype\n(}\x89\x88tR"),
    "dtype with an item size": _state(dtype=_U1 + b"(K\x03X\x01\x00\x00\x00|NNNM\xff\xffK\x01K\x00tb"),
    "dtype of objects by its flags": _state(
        dtype=_U1 + b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "dtype with a subarray": _state(
        dtype=_U1 + b"(K\x03X\x01\x00\x00\x00|" + _U1 + b"K\x7f\x85\x86NNK\x01K\x01K\x00tb"
    ),
    "columns first": _ARRAY + b"(K\x01K\x02\x85" + _U1 + b"\x88C\x02abtb",
    "another version": _state(version=b"K\x00"),
    "bytes in a list": _state(raw=b"]K\x01aK\x02a"),
    "set twice": _state() + b"(K\x01K\x02\x85" + _U1 + b"\x89C\x02abtb",
    "no state": _ARRAY,
    "state of ndarray itself": b"cnumpy\nndarray\n}X\x01\x00\x00\x00xK\x01sb",
    "state of a factory": b"cnumpy\ndtype\n}X\x04\x00\x00\x00makeK\x01sb",
    "ndarray called": b"cnumpy\nndarray\n(K\x02\x85tR",
    "ndarray made anew": b"cnumpy\nndarray\n)\x81",
    "factory of a factory": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tC\x01btR",
    "frombuffer of an array": b"cnumpy.core.numeric\n_frombuffer\n("
    + _state()
    + _U1
    + b"K\x02\x85X\x01\x00\x00\x00CtR",
    "frombuffer too long": b"cnumpy.core.numeric\n_frombuffer\n(C\x02ab" + _U1 + b"K\x63\x85X\x01\x00\x00\x00CtR",
    "getattr": b"cbuiltins\ngetattr\n(X\x01\x00\x00\x00xX\x01\x00\x00\x00ytR",
    "os.system": b"cposix\nsystem\n(X\x02\x00\x00\x00:;tR",
    "a dotted name": b"X\x05\x00\x00\x00numpyX\x0d\x00\x00\x00dtype.__init__\x93",
    "another encoding": b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x03\x00\x00\x00hextR",
    "a place far out in the memo": b"K\x01r\xff\xff\xff\xffh\x05",
    "a text that ends later": b"X\xff\xff\xff\x7fabc",
    "bytes without end": b"\x96" + b"\xff" * 7 + b"\x00",
    "a set of tuples of tuples": b"\x8f(" + b")2\x86" * 40 + b"\x90",
    "a key of tuples of tuples": b"}" + b")" + b"2\x86" * 40 + b"K\x01s",
    "an extension": b"\x82\x01",
    "a persistent name": b"K\x01Q",
}


@pytest.mark.parametrize("name", _CRAFTED)
def test_crafted_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "data_batch_1").write_bytes(_batch(_CRAFTED[name]))
    with pytest.raises(UserError, match=r"data_batch_1 is not a readable pickle of plain values and arrays"):
        read_pickle(tmp_path / "data_batch_1")


def test_the_plain_state_of_an_array_is_taken(tmp_path: Path) -> None:
    """The crafted ones above differ from this one in one place each."""
    sound = _U1 + b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    for dtype in (_U1, sound):
        (tmp_path / "x").write_bytes(_batch(_state(dtype=dtype)))
        assert read_pickle(tmp_path / "x")["data"].tolist() == [97, 98]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_arrays_come_back_from_every_protocol(tmp_path: Path, protocol: int, dtype: type) -> None:
    array: NDArray[Any] = np.arange(12, dtype=dtype).reshape(3, 4)
    (tmp_path / "x").write_bytes(pickle.dumps({"data": array, b"names": ["a", b"b", 1.5, None, True]}, protocol))
    content = read_pickle(tmp_path / "x")
    np.testing.assert_array_equal(content["data"], array)
    assert content["data"].dtype == dtype
    assert content["names"][2:] == [1.5, None, True]
