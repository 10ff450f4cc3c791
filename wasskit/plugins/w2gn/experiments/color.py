"""The palettes of two photographs as measures on the RGB cube, and the photographs under the maps between them.

A map is evaluated once for every distinct colour: its images are kept in a table of all 2^24 colours, so that the
memory is constant and a picture of a thousand million pixels costs no more evaluations than it has colours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wasskit.data.photographs import LARGE, Pixels, colours_of, lossless_suffix, map_image, pixel_count, read_pixels
from wasskit.data.toy import Measure, Scheme, normal
from wasskit.evaluation.transport import gaussian_distance
from wasskit.ot.energy import energy_distance, random_directions
from wasskit.plugins.w2gn import figures
from wasskit.plugins.w2gn.core.evaluation import flat, map_scores
from wasskit.plugins.w2gn.core.transport import W2GN, Refine
from wasskit.plugins.w2gn.maps import Maps
from wasskit.report import Report, Table
from wasskit.system.transfer import Constant


class Palettes:
    """The palettes of two photographs and test colours (N, 3) in [0, 1], ``x`` and ``y``, of them.

    Args:
        paths: the source and the target.
        test_size: colours of each that maps are judged by.
        smooth: see `colour_function`; how the photographs are mapped.
    """

    def __init__(
        self,
        paths: tuple[Path, Path],
        *,
        test_size: int = 4096,
        smooth: float = 0.0,
        seed: int = 0,
        scheme: Scheme = "sobol",
        device: torch.device | str = "cpu",
    ) -> None:
        self.paths, self.smooth, self.device = paths, smooth, device
        self.source, self.target = (colour_measure(colours_of(path)) for path in paths)
        self.x, self.y = (
            measure.draw(test_size, seed, side, -(10**6), scheme=scheme, device=device)
            for measure, side in ((self.source, "source"), (self.target, "target"))
        )
        seeded = torch.Generator(device).manual_seed(0)
        self.directions = random_directions(256, 3, like=self.x, generator=seeded)
        self.before = float(energy_distance(self.x, self.y, self.directions))

    def scores(self, transport: W2GN) -> dict[str, dict[str, float]]:
        """Energy distances before and after either map, the distance of the moments, the cycle error."""
        scores, forward = map_scores(transport, self.x, self.y, self.directions)
        return {"test": {"energy_before": self.before, "moments_forward": gaussian_distance(forward, self.y)} | scores}

    def write_images(self, transport: W2GN, folder: Path) -> list[Path]:
        """Map the first photograph forward and the second back; the files made."""
        written = []
        for path, word in zip(self.paths, ("forward", "inverse"), strict=True):
            function = colour_function(transport, word == "inverse", smooth=self.smooth)
            destination = folder / f"{path.stem}-{word}{lossless_suffix(path)}"
            map_image(path, destination, ColourTable(function, self.device))
            written.append(destination)
        return written

    def report(
        self,
        transport: W2GN,
        final: Mapping[str, float] | None = None,
        history: figures.History | None = None,
        images: Sequence[Path] = (),
    ) -> Report:
        """The table, and the palettes, photographs and learning curves as figures.

        Args:
            final: the scores as ``split/metric``, where they are known.
            history: metrics over the steps of the training.
            images: the mapped photographs, from `write_images`.
        """
        final = dict(flat(self.scores(transport)) if final is None else final)
        forward, inverse = (
            colour_function(transport, back, smooth=self.smooth)(points)
            for back, points in ((False, self.x), (True, self.y))
        )
        for word, mapped, goal in (("forward", forward, self.y), ("inverse", inverse, self.x)):
            final[f"test/energy_{word}_written"] = float(energy_distance(mapped, goal, self.directions))
        rows = [
            ["energy distance before", final["test/energy_before"]],
            ["energy distance, forward", final["test/energy_forward"]],
            ["  as written (--smooth)", final["test/energy_forward_written"]],
            ["energy distance, inverse", final["test/energy_inverse"]],
            ["  as written (--smooth)", final["test/energy_inverse_written"]],
            ["forward and back, % of the variance", final["test/cycle_error"]],
            ["half squared W2 distance", final["test/half_w2"]],
        ]
        clouds = dict(zip(self.titles(), (self.x, forward, self.y, inverse), strict=True))
        drawn: dict[str, figures.Drawing] = {"palettes": lambda: draw_palettes(clouds)}
        shown = [path for pair in zip(self.paths, images, strict=False) for path in pair]
        if shown and max(pixel_count(path) for path in shown) <= LARGE:
            drawn["images"] = lambda: figures.photographs(
                {name: thumbnail(read_pixels(path)) for name, path in zip(clouds, shown, strict=True)}
            )
        drawn |= figures.draw_history(
            "energy",
            history,
            {"energy_forward": "forward", "energy_inverse": "inverse"},
            ylabel="energy distance of palettes",
            levels={"no map": final["test/energy_before"]},
        )
        return Report(
            {"final": final, "images": [str(path) for path in images]},
            tables=[Table(["palettes", "value"], rows, " and ".join(p.name for p in self.paths), digits=5)],
            notes=[f"Image: {path}" for path in images],
            files={"palette.npz": figures.arrays(source=self.x, forward=forward, target=self.y, inverse=inverse)},
            figures=drawn,
        )

    def titles(self) -> list[str]:
        """The names of both photographs, before and after the maps."""
        first, second = (path.stem for path in self.paths)
        if first == second:
            first, second = f"{first} (source)", f"{second} (target)"
        return [first, f"{first}, mapped", second, f"{second}, mapped"]


def colour_measure(colours: Tensor) -> Measure:
    """The uniform law on the colours, in [0, 1], spread over the width of a grey level so that it has a density."""
    count = len(colours)
    kept = Constant(colours)

    def transform(u: Tensor) -> Tensor:
        chosen = (u[:, 0].double() * count).long().clamp_(max=count - 1)
        return (kept.on(u.device)[chosen].float() + u[:, 1:] - 0.5) / 255.0

    return Measure(3, 4, transform)


class ColourTable:
    """A map of colours as a table that is filled as colours are met.

    Args:
        function: points (N, 3) in [0, 1] to points (N, 3).
    """

    def __init__(self, function: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> None:
        self.function = function
        self.device = torch.device(device)
        self.table = np.zeros((1 << 24, 3), dtype=np.uint8)
        self.known = np.zeros(1 << 24, dtype=bool)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Images of pixels (..., 3), rounded to 8 bits."""
        codes = pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]
        missing = np.unique(codes[~self.known[codes]])
        if len(missing):
            channels = np.stack([missing >> 16, missing >> 8 & 255, missing & 255], 1)
            points = torch.from_numpy(channels).to(self.device, torch.float32) / 255.0
            mapped = (255.0 * self.function(points)).round_().clamp_(0, 255)
            self.table[missing] = mapped.to(torch.uint8).cpu().numpy()
            self.known[missing] = True
        images: Pixels = self.table[codes]
        return images


def colour_function(
    transport: Maps, inverse: bool = False, refine: Refine = "none", smooth: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """The forward or inverse map as a function of points (N, 3) in [0, 1].

    Args:
        smooth: standard deviation, in grey levels, of a normal over which the map is averaged. The average
            ``E T(x + s Z)`` is the gradient of the potential's convolution with that normal, hence monotone as
            well; where the optimal map jumps between neighbouring colours, as it does where a palette falls apart,
            the average turns the jump, and the noise of compression that it would magnify, into a gradation.
    """

    def exact(points: Tensor) -> Tensor:
        return transport.inverse_map(points, refine=refine) if inverse else transport.forward_map(points)

    if smooth == 0.0:
        return exact
    offsets = smooth / 255.0 * normal(3).draw(8, 0, scheme="sobol")

    def averaged(points: Tensor) -> Tensor:
        total = torch.zeros_like(points)
        for offset in offsets.to(points):
            # In pairs of opposite offsets, so that a linear map stays what it is.
            total += exact(points + offset) + exact(points - offset)
        return total / (2 * len(offsets))

    return averaged


def draw_palettes(clouds: Mapping[str, Tensor]) -> Any:
    """Colours (N, 3) as points of the RGB cube."""
    from wasskit.pictures.clouds import draw_palettes
    from wasskit.pictures.look import Look

    colours = {name: points.clamp(0, 1).cpu().numpy() for name, points in clouds.items()}
    return draw_palettes(colours, Look())


def thumbnail(pixels: Pixels, side: int = 900) -> Pixels:
    """An image (H, W, 3) reduced to about ``side`` pixels."""
    return np.asarray(Image.fromarray(pixels).reduce(max(1, max(pixels.shape[:2]) // side)))
