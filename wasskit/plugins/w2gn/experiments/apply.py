"""Saved maps at work on files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wasskit.data.toy import load_points
from wasskit.errors import UserError
from wasskit.plugins.w2gn.core.objective import W2GN, Refine
from wasskit.plugins.w2gn.experiments.palette import read_pixels, save_pixels
from wasskit.system.files import replace_file, writing


def map_file(path: Path) -> Path:
    """The map in a run directory, or the path itself."""
    return path / "map.safetensors" if path.is_dir() else path


def is_colour_map(header: Mapping[str, Any]) -> bool:
    """Whether a map's points are colours."""
    return header.get("space") == "rgb"


def apply_to_points(
    transport: W2GN, header: Mapping[str, Any], source: Path, destination: Path, inverse: bool, refine: Refine
) -> None:
    """Map a ``.npy`` file of points to another.

    Raises:
        UserError: the points have another dimension than the map, or rows that are not finite.
    """
    points = load_points(source)
    known = header["potential"]
    if known.get("dim") != points.shape[1]:
        shape = f"of dimension {known['dim']}" if "dim" in known else "that are images"
        raise UserError(
            f"{source} holds points of dimension {points.shape[1]}; the map takes points {shape}."
        )
    device = next(transport.parameters()).device
    moved = points.to(device)
    mapped = transport.inverse_map(moved, refine=refine) if inverse else transport.forward_map(moved)
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
    replace_file(destination, lambda file: np.save(file, mapped.cpu().numpy()))


def apply_to_image(
    transport: W2GN, header: Mapping[str, Any], source: Path, destination: Path, inverse: bool, refine: Refine
) -> None:
    """Map an image file by a map of images.

    Raises:
        UserError: the image is not 8-bit RGB, or of another size than the map's.
    """
    size = tuple(header["potential"]["image_size"])
    pixels = read_pixels(source)
    if pixels.shape[:2] != size:
        raise UserError(
            f"{source} has {pixels.shape[0]}x{pixels.shape[1]} pixels; the map takes {size[0]}x{size[1]}: resize it "
            "first."
        )
    device = next(transport.parameters()).device
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device, torch.float32) / 127.5 - 1.0
    mapped = transport.inverse_map(image, refine=refine) if inverse else transport.forward_map(image)
    array = ((mapped[0] + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        save_pixels(array, destination)
