"""Images of any size under functions of pixels, and the images that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wasskit.data.photographs import (
    Pixels,
    colours_of,
    lossless_suffix,
    map_image,
    map_pixels,
    read_pixels,
    sample_photographs,
    save_pixels,
)
from wasskit.errors import UserError


def darker(pixels: Pixels) -> Pixels:
    return pixels // 2 + 25


def picture(height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_image_files_keep_their_size(tmp_path: Path) -> None:
    source = save_pixels(picture(), tmp_path / "a.png")
    map_image(source, tmp_path / "out" / "b.png", darker)
    np.testing.assert_array_equal(read_pixels(tmp_path / "out" / "b.png"), map_pixels(picture(), darker))
    with pytest.raises(UserError, match=r"Cannot write .*\.xyz"):
        map_image(source, tmp_path / "b.xyz", darker)


@pytest.mark.parametrize("tile", [(16, 32), None])
def test_tiffs_are_mapped_in_tiles(
    tmp_path: Path, tile: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("wasskit.data.photographs.LARGE", 100)
    pixels = picture(70, 90)
    layout = {"tile": tile} if tile else {"rowsperstrip": 16}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **layout)
    with pytest.raises(UserError, match="name of a TIFF"):
        map_image(tmp_path / "a.tif", tmp_path / "b.png", darker)
    map_image(tmp_path / "a.tif", tmp_path / "b.tif", darker)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), map_pixels(pixels, darker))
    assert tifffile.TiffFile(tmp_path / "b.tif").pages[0].is_tiled == (tile is not None)
    assert len(colours_of(tmp_path / "a.tif", 500)) < 2000
    assert not list(tmp_path.glob(".*"))


def test_images_that_are_no_palettes_are_refused(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    cases = {
        "grey.png": (Image.fromarray(grey), "is a grey image"),
        "alpha.png": (Image.fromarray(np.dstack([picture(), grey])), "has an alpha channel"),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), "more than 8 bits"),
        "cmyk.jpg": (Image.fromarray(picture()).convert("CMYK"), "is a CMYK image"),
    }
    for name, (image, reason) in cases.items():
        image.save(tmp_path / name)
        with pytest.raises(UserError, match=reason):
            read_pixels(tmp_path / name)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="not a readable image"):
        read_pixels(tmp_path / "text.png")
    with pytest.raises(UserError, match="no image"):
        read_pixels(tmp_path / "absent.png")


def test_sixteen_bit_colour_png_is_refused(tmp_path: Path) -> None:
    # A 1x1 RGB PNG with 16 bits per channel, which Pillow would open as 8-bit RGB.
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")
    )
    (tmp_path / "deep.png").write_bytes(content)
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(tmp_path / "deep.png")


@pytest.mark.parametrize("tile", [(16, 16), None])
def test_foreign_tiffs_are_refused(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    alpha = np.dstack([picture(), picture()[..., 0]])
    arrays: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "grey.tif": (picture()[..., 0], "is a grey image", {"photometric": "minisblack"}),
        "deep.tif": (picture().astype(np.uint16), "8 bits per channel", {"photometric": "rgb"}),
        "alpha.tif": (alpha, "has an alpha channel", {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "lab.tif": (picture(), "is a (CIE)?LAB image", {"photometric": "cielab"}),
    }
    for name, (array, reason, options) in arrays.items():
        tifffile.imwrite(tmp_path / name, array, tile=tile, **options)
        with pytest.raises(UserError, match=reason):
            read_pixels(tmp_path / name)


def test_sixteen_bit_tiff_is_refused_without_the_library(tmp_path: Path) -> None:
    # One strip of 2 x 1 pixels with 16 bits per channel, which Pillow would open as 8-bit RGB.
    import struct

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, count, value)

    entries = [
        entry(256, 3, 1, 2), entry(257, 3, 1, 1), entry(258, 3, 3, 8 + 2 + 10 * 12 + 4), entry(259, 3, 1, 1),
        entry(262, 3, 1, 2), entry(273, 4, 1, 8 + 2 + 10 * 12 + 4 + 6), entry(277, 3, 1, 3), entry(278, 3, 1, 1),
        entry(279, 4, 1, 12), entry(284, 3, 1, 1),
    ]  # fmt: skip
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    (tmp_path / "deep.tif").write_bytes(content + struct.pack("<3H", 16, 16, 16) + bytes(12))
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(tmp_path / "deep.tif")


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(40, 30)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "turned.png"), np.rot90(picture(40, 30), -1))


def test_embedded_profiles_are_taken_into_srgb(tmp_path: Path) -> None:
    swapped = minimal_profile("GBR")
    Image.fromarray(picture()).save(tmp_path / "plain.png", icc_profile=minimal_profile("RGB"))
    Image.fromarray(picture()).save(tmp_path / "swapped.png", icc_profile=swapped)
    close = np.abs(read_pixels(tmp_path / "plain.png").astype(int) - picture())
    assert close.max() <= 2
    turned = np.abs(read_pixels(tmp_path / "swapped.png").astype(int) - picture()[..., [1, 2, 0]])
    assert turned.mean() < 3
    Image.fromarray(picture()).save(tmp_path / "broken.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(read_pixels(tmp_path / "broken.png"), picture())


def test_a_picture_of_another_kind_under_the_name_of_a_tiff_is_read(tmp_path: Path) -> None:
    """With tifffile, which refuses it, as without."""
    Image.fromarray(picture()).save(tmp_path / "a.tif", "PNG")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), picture())


def test_a_profile_of_any_size_is_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png", icc_profile=minimal_profile("GBR"))
    monkeypatch.setattr("wasskit.data.photographs.LARGEST_PROFILE", 100)
    with pytest.raises(UserError, match=r"a\.png is not a readable image: its colour profile has more than 100 bytes"):
        read_pixels(tmp_path / "a.png")


def minimal_profile(order: str) -> bytes:
    """sRGB with its three colourants in another order and another name."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    names = {b"rXYZ": "R", b"gXYZ": "G", b"bXYZ": "B"}
    for i in range(count):
        place = 132 + 12 * i
        if (tag := bytes(data[place : place + 4])) in names:
            data[place : place + 4] = (order["RGB".index(names[tag])].lower() + "XYZ").encode()
    return bytes(data.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be")))


def test_colours_of_a_tiled_image_hold_no_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("wasskit.data.photographs.LARGE", 100)
    columns = np.broadcast_to(np.arange(1, 91, dtype=np.uint8)[None, :, None], (70, 90, 3))
    tifffile.imwrite(tmp_path / "a.tif", columns, photometric="rgb", tile=(32, 32))
    colours = colours_of(tmp_path / "a.tif", 700)
    assert colours.min() > 0
    # Every column of pixels is met.
    assert len(colours[:, 0].unique()) == 90


def test_results_are_named_after_their_originals() -> None:
    names = {"a.jpg": ".png", "a.PNG": ".png", "slide.svs": ".tif", "big.btf": ".tif", "scan.TIFF": ".tiff"}
    assert {name: lossless_suffix(Path(name)) for name in names} == names


def test_sample_photographs_are_there() -> None:
    for path in sample_photographs():
        assert read_pixels(path).shape == (427, 640, 3)
