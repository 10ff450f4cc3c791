"""Opening image files: what their headers announce is checked before anything is decoded."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from wasskit.system.readers import Damage, check_regular

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp", ".gif", ".jp2")
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats of these suffixes. Pillow knows others that run programs (EPS) or hold anything (PSD, ICNS)."""
LARGEST_IMAGE = 2 * (1024 * 1024 * 1024 // 4 // 3)
"""Pixels of the largest image that is decoded as a whole: 178,956,970, beyond which Pillow refuses, too."""
_SMALL = 1 << 25
_PER_BYTE = 2048
"""Pixels that a byte of a file stands for at most in an image of more than 33 million pixels: a page of blank paper
comes to a thousand."""

# Its bound is half of ours, and ours is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def opened(source: Path | str | bytes) -> Image.Image:
    """An image with its header read and its pixels not yet, from a file or from the bytes of one.

    Raises:
        UnreadableFile: the path is not a regular file.
        Damage: it is not an image of a known format, or announces more pixels than are decoded.
        Exception: whatever else damage leads Pillow to.
    """
    if isinstance(source, bytes):
        size, file = len(source), io.BytesIO(source)
    else:
        check_regular(Path(source), "image")
        size, file = os.path.getsize(source), None  # noqa: PTH202 (of many files)
    try:
        image = Image.open(source if file is None else file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Damage("not an image, or damaged at its start") from error
    except Image.DecompressionBombError as error:
        raise Damage(f"it has more than {LARGEST_IMAGE:,} pixels") from error
    pixels, shape = image.width * image.height, f"{image.width:,} x {image.height:,} pixels"
    if pixels > LARGEST_IMAGE:
        image.close()
        raise Damage(f"it has {shape}, more than the {LARGEST_IMAGE:,} that are decoded as a whole")
    if pixels > _SMALL and pixels > _PER_BYTE * size:
        image.close()
        raise Damage(f"it announces {shape}, which its {size:,} bytes cannot hold")
    return image
