"""Photographs of any size as 8-bit RGB arrays, upright and in sRGB; large TIFFs tile by tile, in constant memory."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from wasskit.data.images import IMAGE_SUFFIXES, LARGEST_IMAGE, opened
from wasskit.errors import UserError
from wasskit.system.files import replace_file, replacing, writing
from wasskit.system.readers import Damage, reader, reading

Pixels = NDArray[np.uint8]
Function = Callable[[Pixels], Pixels]
"""Pixels (..., 3) to as many."""
TIFF = (".tif", ".tiff", ".btf", ".svs")
# Of classic and of big TIFFs, in both orders of bytes.
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TILE_ROWS = 512
_ADVICE = "get it again; an image of any size can be given as a tiled TIFF with wasskit[tiff]"
_MISSING = "There is no image {path}; name one that is there."
LARGE = 1 << 26
"""Pixels from which an image is shown in no figure, and a TIFF read and written in tiles."""
LARGEST_PROFILE = 1 << 24
"""Bytes of a colour profile; those of printers, with tables of four dimensions, come to three million."""
BUFFER = 1 << 24
"""Bytes that are read of a TIFF at once."""


def sample_photographs() -> tuple[Path, Path]:
    """The two photographs that come with scikit-learn: a Chinese temple and a flower."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("The sample photographs come with scikit-learn, which is not installed: give two images.")
    folder = Path(spec.origin).parent / "datasets" / "images"
    return folder / "china.jpg", folder / "flower.jpg"


# --- Reading ------------------------------------------------------------------------------------------------------


@reader("image", suffixes=(*IMAGE_SUFFIXES, *TIFF), advice=_ADVICE, missing=_MISSING)
def read_pixels(path: Path) -> Pixels:
    """An 8-bit RGB image as (H, W, 3) uint8, upright and, where a colour profile is embedded, in sRGB.

    A tiled or very large TIFF is taken as it is stored.

    Raises:
        UserError: the file is missing or damaged; the image is grey, has an alpha channel or more than 8 bits.
    """
    if (page := tiled_page(path)) is not None:
        if page.imagelength * page.imagewidth > LARGEST_IMAGE:
            raise Damage(f"it has more than the {LARGEST_IMAGE:,} pixels that are decoded as a whole")
        array: Pixels = page.asarray(maxworkers=1)
        return array
    with opened(path) as image:
        check_mode(path, image)
        return np.array(in_srgb(ImageOps.exif_transpose(image)))


def in_srgb(image: Image.Image) -> Image.Image:
    """The image in RGB, converted from its embedded colour profile where that is another than sRGB.

    A profile that cannot be used (damaged, or of another kind of image) is left out, as viewers do. Raises ``Damage``
    where it is larger than any profile.
    """
    profile, image = image.info.get("icc_profile"), image.convert("RGB")
    if not profile:
        return image
    if len(profile) > LARGEST_PROFILE:
        raise Damage(f"its colour profile has more than {LARGEST_PROFILE:,} bytes")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(embedded).lower():
            return image
        converted = ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if converted is None else converted


@reader("image", suffixes=(*IMAGE_SUFFIXES, *TIFF), advice=_ADVICE, missing=_MISSING)
def pixel_count(path: Path) -> int:
    """Pixels of an image file, without decoding it."""
    if (page := tiled_page(path)) is not None:
        return int(page.imagelength * page.imagewidth)
    with opened(path) as image:
        return int(image.width * image.height)


def check_mode(path: Path, image: Image.Image) -> None:
    """Refuse images that are not 8-bit RGB, each with what to do about it."""
    mode = image.mode
    if mode.startswith("I") or mode == "F" or sixteen_bit(path, image):
        raise UserError(f"{path} has more than 8 bits per channel: convert it to 8-bit RGB first.")
    if mode in ("1", "L", "LA", "La"):
        raise UserError(f"{path} is a grey image: a palette needs three colours; convert it to RGB if that is meant.")
    if mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        raise UserError(f"{path} has an alpha channel: flatten it onto a background and save it as RGB first.")
    if mode not in ("RGB", "P"):
        raise UserError(f"{path} is a {mode} image: convert it to RGB first.")


def sixteen_bit(path: Path, image: Image.Image) -> bool:
    """Whether a PNG or TIFF has 16 bits per channel, which Pillow hides by dropping the lower eight."""
    if image.format == "TIFF":
        return any(bits > 8 for bits in getattr(image, "tag_v2", {}).get(258, ()))
    if image.format != "PNG":
        return False
    with path.open("rb") as file:
        header = file.read(25)
    return len(header) == 25 and header[24] == 16


def tiled_page(path: Path) -> Any | None:
    """The first page of a TIFF that is tiled or very large, if the library for these is installed; None leaves
    the file to Pillow.
    """
    if path.suffix.lower() not in TIFF or not path.is_file() or importlib.util.find_spec("tifffile") is None:
        return None
    with reading(path, "TIFF", advice=_ADVICE, missing=_MISSING), path.open("rb") as file:
        if file.read(4) not in _TIFF_STARTS:  # a picture of another kind under such a name, which Pillow reads
            return None
    page = _first_page(path)
    if not page.is_tiled and page.imagewidth * page.imagelength <= LARGE:
        return None
    check_page(path, page)
    return page


@reader("TIFF", suffixes=TIFF, advice=_ADVICE, missing=_MISSING)
def _first_page(path: Path) -> Any:
    """The first page of a TIFF, its tags read and its sizes checked, its pixels not yet read."""
    import tifffile

    page: Any = tifffile.TiffFile(path).pages[0]
    rows, columns = page.imagelength, page.imagewidth
    deep, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, rows), columns)
    if not (0 < rows < 1 << 31 and 0 < columns < 1 << 31 and deep > 0 and wide > 0):
        raise Damage("its tags give no size")
    if deep * wide > LARGEST_IMAGE:
        raise Damage(f"its parts have more than the {LARGEST_IMAGE:,} pixels that are decoded at once")
    parts = -(-rows // deep) * -(-columns // wide)
    # Some writers keep every sample in a part of its own, which is refused later in better words.
    if not parts <= len(page.dataoffsets) <= parts * max(page.samplesperpixel, 1):
        raise Damage(f"it has {len(page.dataoffsets):,} parts in place of {parts:,}")
    return page


def check_page(path: Path, page: Any) -> None:
    """Refuse a page that is not 8-bit RGB, each with what to do about it."""
    if page.dtype is None or page.dtype != np.uint8:
        raise UserError(f"{path} has {page.dtype} samples, not 8 bits per channel: convert it to 8-bit RGB first.")
    if page.samplesperpixel == 1:
        raise UserError(f"{path} is a grey image: a palette needs three colours; convert it to RGB if that is meant.")
    if page.samplesperpixel == 4:
        raise UserError(f"{path} has an alpha channel: flatten it onto a background and save it as RGB first.")
    # JPEG in YCbCr is decoded to RGB; without that compression the samples would stay as they are.
    space = getattr(page.photometric, "name", str(page.photometric))
    if space != "RGB" and not (space == "YCBCR" and "JPEG" in getattr(page.compression, "name", "")):
        raise UserError(f"{path} is a {space} image: convert it to RGB first.")
    if page.samplesperpixel != 3 or page.planarconfig != 1:
        raise UserError(
            f"{path} has {page.samplesperpixel} channels stored apart: convert it to interleaved 8-bit RGB first."
        )


def colours_of(path: Path, limit: int = 1 << 22) -> Tensor:
    """Colours of an image, (N, 3) uint8: all pixels, or about ``limit`` evenly spread ones of a large image.

    A large TIFF is read tile by tile.
    """
    page = tiled_page(path)
    if page is not None and (count := page.imagelength * page.imagewidth) > LARGE:
        parts = [data for data, *_ in decoded(page, path, func=thinned(page, count // limit))]
        return torch.from_numpy(np.concatenate([part for part in parts if len(part)]))
    pixels = read_pixels(path).reshape(-1, 3)
    return torch.from_numpy(every(pixels, 1 if len(pixels) <= LARGE else len(pixels) // limit))


def decoded(page: Any, path: Path, **options: Any) -> Iterator[Any]:
    """The segments of a page, one after another. Raises `UserError` where one cannot be decoded."""
    segments = page.segments(maxworkers=1, buffersize=BUFFER, **options)
    while True:
        with reading(path, "TIFF", advice=_ADVICE):
            segment = next(segments, None)
        if segment is None:
            return
        yield segment


def every(pixels: Pixels, step: int) -> Pixels:
    """About every ``step``-th pixel of (N, 3): an odd step, which visits all columns of tiles of even width."""
    return np.ascontiguousarray(pixels[:: step | 1])


def thinned(page: Any, step: int) -> Callable[[Any], tuple[Pixels, int]]:
    """Every ``step``-th pixel of a decoded segment of a page, without the padding of tiles at the edges."""

    def pick(segment: Any) -> tuple[Pixels, int]:
        data, index = segment[0], segment[1]
        if data is None:
            return np.zeros((0, 3), np.uint8), index
        height, width = page.imagelength - index[2], page.imagewidth - index[3]
        inside = data.reshape(data.shape[-3:])[:height, :width]
        return every(inside.reshape(-1, 3), step), index

    return pick


# --- Mapping ------------------------------------------------------------------------------------------------------


def map_pixels(pixels: Pixels, function: Function) -> Pixels:
    """An image (H, W, 3) under a function of pixels, strip by strip."""
    result = np.empty_like(pixels)
    for top in range(0, len(pixels), _TILE_ROWS):
        result[top : top + _TILE_ROWS] = function(pixels[top : top + _TILE_ROWS])
    return result


def map_image(source: Path, destination: Path, function: Function) -> None:
    """Map an image file to another; a large TIFF tile by tile, in constant memory.

    Raises:
        UserError: see `read_pixels`; the destination cannot be written.
    """
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        if (page := tiled_page(source)) is not None:
            if destination.suffix.lower() in TIFF:
                map_tiles(page, destination, function)
                return
            if page.shape[0] * page.shape[1] > LARGE:
                raise UserError(f"{source} is mapped in tiles: give its image the name of a TIFF, not {destination}.")
        save_pixels(map_pixels(read_pixels(source), function), destination)


def map_tiles(page: Any, destination: Path, function: Function) -> None:
    """One page of a TIFF, segment by segment, in the layout of the original."""
    import tifffile

    def segments() -> Iterator[Pixels]:
        for data, _, shape in decoded(page, Path(page.parent.filehandle.path)):
            if data is None:
                blank = np.zeros((page.tilelength, page.tilewidth, 3) if page.is_tiled else shape[-3:], np.uint8)
                yield function(blank)
                continue
            tile: Pixels = function(data.reshape(data.shape[-3:]))
            if page.is_tiled and tile.shape[:2] != (page.tilelength, page.tilewidth):
                whole = np.zeros((page.tilelength, page.tilewidth, 3), np.uint8)
                whole[: tile.shape[0], : tile.shape[1]] = tile
                tile = whole
            yield tile

    layout: dict[str, Any] = (
        {"tile": (page.tilelength, page.tilewidth)} if page.is_tiled else {"rowsperstrip": page.rowsperstrip}
    )
    if page.compression in (tifffile.COMPRESSION.ADOBE_DEFLATE, tifffile.COMPRESSION.DEFLATE):
        layout["compression"] = "zlib"
    size = page.shape[0] * page.shape[1] * 3
    with replacing(destination) as temporary, tifffile.TiffWriter(temporary, bigtiff=size > 1 << 31) as writer:
        writer.write(
            segments(), shape=page.shape, dtype=np.uint8, photometric="rgb", iccprofile=page.iccprofile, **layout
        )


def lossless_suffix(path: Path) -> str:
    """The suffix of a mapped image by that of its original: large ones stay TIFFs, others become PNGs."""
    suffix = path.suffix.lower()
    return (suffix if suffix in (".tif", ".tiff") else ".tif") if suffix in TIFF else ".png"


def save_pixels(pixels: Pixels, path: Path) -> Path:
    """Write an image in the format of the path's suffix; JPEG at high quality."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    kind = Image.registered_extensions().get(path.suffix.lower())
    try:
        if kind is None:
            raise ValueError(f"unknown file extension: {path.suffix}")
        replace_file(path, lambda file: Image.fromarray(pixels).save(file, format=kind, **options))
    except (ValueError, KeyError) as error:
        raise UserError(f"Cannot write {path}: {error}; name it .png, .jpg or .tif.") from error
    return path
