"""Points and colours read for figures: transport maps, images as colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wasskit.errors import UserError
from wasskit.pictures.maps import Array, Transport
from wasskit.system.arrays import check_rows
from wasskit.system.readers import reader


def transport_from(name: str, arrays: Mapping[str, Array]) -> Transport:
    """A transport from the arrays of a ``transport*.npz``.

    Raises:
        UserError: there is no ``source``, or the arrays do not fit together.
    """
    if "source" not in arrays or not ({"forward", "target"} & set(arrays)):
        raise UserError(f"{name} must hold 'source' and 'forward' or 'target'; it holds {', '.join(arrays)}.")
    points = {k: arrays[k].astype(np.float64) for k in ("source", "forward", "target", "inverse") if k in arrays}
    for key, cloud in points.items():
        check_rows(cloud, f"{key!r} of {name}")
    grids = {key: arrays[key].astype(np.float64) for key in ("grid", "grid_forward") if key in arrays}
    shapes = {grid.shape for grid in grids.values()}
    if len(grids) == 2 and len(shapes) == 1 and len(next(iter(shapes))) == 3 and next(iter(shapes))[2] == 2:
        return Transport(name, **points, **grids)
    return Transport(name, **points)


@reader("image", suffixes=(".png", ".jpg", ".tif"), advice="name another image", missing="There is no image {path}.")
def read_colours(path: Path) -> Array:
    """Colours (N, 3) in [0, 1] of an image file: pixels of a copy no larger than 512 on a side.

    Grey images are read as RGB, transparent pixels left out, 16-bit values scaled.

    Raises:
        UserError: the file is missing or no image, or has no visible pixel.
    """
    from PIL import Image, ImageFile

    from wasskit.data.images import opened

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with opened(path) as image:
        image.draft("RGB", (512, 512))
        if image.mode.startswith("I") or image.mode == "F":
            values = np.nan_to_num(np.asarray(image, dtype=np.float64))
            top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
            image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        image.thumbnail((512, 512))
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float64).reshape(-1, 4) / 255
    visible = rgba[rgba[:, 3] > 0.5, :3]
    if len(visible) == 0:
        raise UserError(f"{path} has no visible pixel: it is transparent throughout.")
    return visible


def as_colours(array: Array, where: str) -> Array:
    """Colours (N, 3) in [0, 1] from bytes or fractions. Raises ``UserError`` for other shapes or values."""
    if array.ndim < 2 or array.shape[-1] != 3 or not array.size:
        raise UserError(f"{where} has shape {array.shape}: expected colours of shape (N, 3).")
    values = array.reshape(-1, 3).astype(np.float64)
    if array.dtype == np.uint8 or (np.isfinite(values).all() and values.max() > 8):
        values = values / 255
    check_rows(values, where)
    return values.clip(0, 1)
