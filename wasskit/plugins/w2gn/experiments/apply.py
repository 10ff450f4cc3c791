"""Saved maps at work on files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wasskit.data.embeddings import is_embeddings, open_embeddings
from wasskit.data.photographs import map_image, read_pixels, save_pixels
from wasskit.errors import UserError
from wasskit.plugins.w2gn.core.frame import FramedTransport
from wasskit.plugins.w2gn.core.transport import W2GN, Refine
from wasskit.plugins.w2gn.experiments.color import ColourTable, colour_function
from wasskit.plugins.w2gn.maps import load_map
from wasskit.plugins.w2gn.options import refuse_newton
from wasskit.system.arrays import write_header
from wasskit.system.files import replacing, writing

ROWS = 8192
"""Rows that are in memory at a time."""


class SavedMap:
    """A map or its inverse, at work on files.

    Args:
        path: a saved map, or the run directory that holds it.
        refine: how the inverse is solved for; ``none``: by the second network.
        smooth: for maps of colours, see `colour_function`; None: as in the training.

    Raises:
        UserError: there is no map at ``path``; ``smooth`` is given for a map of other points, Newton's method for one
            of images.
    """

    def __init__(
        self,
        path: Path,
        *,
        inverse: bool = False,
        refine: Refine = "none",
        smooth: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        transport, header = load_map(path)
        self.path = path / "map.safetensors" if path.is_dir() else path
        self.inverse, self.refine, self.device = inverse, refine, device
        self.transport, self.described = transport.to(device), header["potential"]
        if "image_size" in self.described:
            refuse_newton(refine)
        self.colours: ColourTable | None = None
        if header.get("space") == "rgb" and isinstance(self.transport, W2GN):
            width = header.get("smooth", 0.0) if smooth is None else smooth
            self.colours = ColourTable(colour_function(self.transport, inverse, refine, width), device)
        elif smooth is not None:
            raise UserError(f"--smooth is for maps of colours, which {self.path} is not.")

    def __call__(self, points: Tensor) -> Tensor:
        """Points (N, D), or images (N, C, H, W) in [-1, 1], under the map."""
        if self.inverse:
            return self.transport.inverse_map(points.to(self.device), refine=self.refine)
        return self.transport.forward_map(points.to(self.device))

    def apply(self, source: Path, destination: Path) -> None:
        """Map the rows of a file of vectors (`wasskit.data.embeddings`) or an image to another file.

        Rows are read, mapped and written some at a time, to a ``.npy`` file of float32 that appears when it is whole.

        Raises:
            UserError: the points or the image are not of the kind that the map takes; a file cannot be read or written.
        """
        if is_embeddings(source):
            self._apply_to_points(source, destination)
        elif self.colours is not None:
            map_image(source, destination, self.colours)
        elif "image_size" in self.described:
            self._apply_to_image(source, destination)
        else:
            raise UserError(
                f"{self.path} maps points of dimension {self.described['dim']}, not the colours of images: give a file "
                f"of vectors (.npy, ...) instead of {source}."
            )

    def _apply_to_points(self, source: Path, destination: Path) -> None:
        points = open_embeddings(source)
        if self.described.get("dim") != points.shape[1]:
            shape = f"of dimension {self.described['dim']}" if "dim" in self.described else "that are images"
            raise UserError(f"{source} holds points of dimension {points.shape[1]}; the map takes points {shape}.")
        with writing(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
        # Of rows far from zero float32 would leave few digits; the frame takes its centre off them first.
        wide = isinstance(self.transport, FramedTransport) and torch.device(self.device).type != "mps"
        with replacing(destination) as temporary, temporary.open("wb") as file:
            write_header(file, points.shape, np.float32)
            for rows in points.chunks(ROWS, wide=wide):
                file.write(self(rows).float().cpu().numpy().tobytes())

    def _apply_to_image(self, source: Path, destination: Path) -> None:
        size = tuple(self.described["image_size"])
        pixels = read_pixels(source)
        if pixels.shape[:2] != size:
            raise UserError(
                f"{source} has {pixels.shape[0]}x{pixels.shape[1]} pixels; the map takes {size[0]}x{size[1]}: resize "
                "it first."
            )
        mapped = self(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1.0)[0]
        array = ((mapped + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        with writing(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
            save_pixels(array, destination)
