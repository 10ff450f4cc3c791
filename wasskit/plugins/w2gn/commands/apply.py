"""``wasskit w2gn apply``: use a saved map on images or points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import DeviceOptions, OverwriteOptions, complete_local_paths, complete_models


@dataclass(frozen=True, kw_only=True)
class W2gnApply(DeviceOptions, OverwriteOptions):
    """Options of ``wasskit w2gn apply``."""

    map: Path = argument(
        help="A saved map (map.safetensors) or the run directory of a training.",
        complete=complete_models,
        metavar="MAP",
    )
    inputs: tuple[str, ...] = argument(
        help="Images (for maps of colours or of images) or .npy files of points.",
        complete=complete_local_paths,
        metavar="INPUT...",
    )
    inverse: bool = option(False, help="Apply the inverse map.", flag="--inverse")
    refine: Literal["none", "lbfgs", "newton"] = option(
        "none", help="Solve for the inverse of the forward map instead of using the second network."
    )
    smooth: float | None = option(
        None,
        help="For maps of colours: average the map over a normal of this many grey levels (0: the map itself).",
        min=0,
        max=64,
        show_default="as in its training",
    )
    output: Path | None = option(
        None,
        help="Where to write: a file for one input, a folder for several.",
        short="-o",
        show_default="beside the input",
    )
    overwrite: bool = option(
        False, help="Replace files that are there already.", panel="Output", transient=True, flag="--overwrite",
        former="force",
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        if self.refine != "none" and not self.inverse:
            raise UserError("--refine solves for the inverse map: give --inverse with it.")


def body(config: W2gnApply, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import group
    from wasskit.plugins.w2gn.experiments.apply import (
        apply_to_image,
        apply_to_points,
        is_colour_map,
        map_file,
    )
    from wasskit.plugins.w2gn.experiments.palette import ColourTable, colour_function, map_image
    from wasskit.plugins.w2gn.maps import load_map

    with group(config.device) as device:
        transport, header = load_map(config.map)
        path = map_file(config.map)
        transport = transport.to(device)
        table: ColourTable | None = None
        if is_colour_map(header):
            smooth = header.get("smooth", 0.0) if config.smooth is None else config.smooth
            table = ColourTable(colour_function(transport, config.inverse, config.refine, smooth), device)
        elif config.smooth is not None:
            raise UserError(f"--smooth is for maps of colours, which {path} is not.")
        inputs = [Path(word).expanduser() for word in config.inputs]
        written: list[Path] = []
        destinations = [output_path(config, source, len(inputs) > 1) for source in inputs]
        config.claim(*destinations)
        if len(set(destinations)) < len(destinations):
            raise UserError(
                "Two inputs of one name would be written to one file: apply the map to them one by one."
            )
        for source, destination in zip(inputs, destinations, strict=True):
            if source.suffix == ".npy":
                apply_to_points(transport, header, source, destination, config.inverse, config.refine)
            else:
                if table is None and "image_size" not in header["potential"]:
                    raise UserError(
                        f"{path} maps points of dimension {header['potential']['dim']}, not the colours of "
                        f"images: give a .npy file instead of {source}."
                    )
                if table is not None:
                    map_image(source, destination, table)
                else:
                    apply_to_image(transport, header, source, destination, config.inverse, config.refine)
            written.append(destination)
            console.result(f"Written: {console.escape(str(destination))}")
    return {"map": str(path), "outputs": [str(p) for p in written]}


def output_path(config: W2gnApply, source: Path, several: bool) -> Path:
    """Where the image of one input goes."""
    from wasskit.plugins.w2gn.experiments.palette import lossless_suffix

    tail = "inverse" if config.inverse else "mapped"
    suffix = ".npy" if source.suffix == ".npy" else lossless_suffix(source)
    name = f"{source.stem}-{tail}{suffix}"
    if config.output is None:
        return source.with_name(name)
    return config.output / name if several or config.output.is_dir() else config.output


command = Command(
    "w2gn apply",
    W2gnApply,
    body,
    "Apply a saved map.\n\n"
    "A map of colours is applied to images of any size in tiles (large TIFFs in constant memory, with "
    "the library tifffile); a map of images to images of its size; any map of points to .npy files of shape (N, D).",
    (
        "wasskit w2gn apply runs/w2gn/color photo.jpg",
        "wasskit w2gn apply map.safetensors slide.tif --output stained.tif",
        "wasskit w2gn apply runs/w2gn/8gaussians points.npy --inverse --refine newton",
    ),
)
