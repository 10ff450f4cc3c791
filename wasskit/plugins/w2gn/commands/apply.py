"""``wasskit w2gn apply``: use a saved map on images or points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.candidates import complete_local_paths, complete_models
from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import DeviceOptions, OverwriteOptions
from wasskit.trained.vectors import FILES


@dataclass(frozen=True, kw_only=True)
class W2gnApply(CommandOptions):
    """Options of ``wasskit w2gn apply``."""

    map: Path = argument(
        help="A saved map (map.safetensors) or the run directory of a training.",
        complete=complete_models,
        metavar="MAP",
    )
    inputs: tuple[str, ...] = argument(
        help=f"Files of vectors ({FILES}); images, for maps of colours or of images.",
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
        help="Where to write: a file for one input, a folder for several; rows are written as .npy, float32.",
        short="-o",
        show_default="beside the input",
    )
    files: OverwriteOptions = OverwriteOptions()
    machine: DeviceOptions = DeviceOptions()

    def validate(self) -> None:
        super().validate()
        if self.refine != "none" and not self.inverse:
            raise UserError("--refine solves for the inverse map: give --inverse with it.")


def body(config: W2gnApply, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import group
    from wasskit.plugins.w2gn.experiments.apply import SavedMap

    with group(config.machine.device) as device:
        saved = SavedMap(config.map, inverse=config.inverse, refine=config.refine, smooth=config.smooth, device=device)
        inputs = [Path(word).expanduser() for word in config.inputs]
        destinations = [output_path(config, source, len(inputs) > 1) for source in inputs]
        config.files.refuse_existing(*destinations)
        if len(set(destinations)) < len(destinations):
            raise UserError("Two inputs of one name would be written to one file: apply the map to them one by one.")
        for source, destination in zip(inputs, destinations, strict=True):
            saved.apply(source, destination)
            console.result(f"Written: {console.escape(str(destination))}")
    return {"map": str(saved.path), "outputs": [str(path) for path in destinations]}


def output_path(config: W2gnApply, source: Path, several: bool) -> Path:
    """Where the image of one input goes."""
    from wasskit.data.embeddings import is_embeddings
    from wasskit.data.photographs import lossless_suffix

    tail = "inverse" if config.inverse else "mapped"
    suffix = ".npy" if is_embeddings(source) else lossless_suffix(source)
    name = f"{source.stem}-{tail}{suffix}"
    if config.output is None:
        return source.with_name(name)
    return config.output / name if several or config.output.is_dir() else config.output


command = Command(
    "w2gn apply",
    W2gnApply,
    body,
    "Apply a saved map.\n\n"
    "A map of vectors is applied to files of rows (N, D), some rows at a time, and writes a .npy file. "
    "A map of colours is applied to images of any size in tiles (large TIFFs in constant memory, with "
    "the library tifffile) or to rows; a map of images to images of its size.",
    (
        "wasskit w2gn apply runs/w2gn/source-target source.npy --output transported.npy",
        "wasskit w2gn apply runs/w2gn/color photo.jpg",
        "wasskit w2gn apply map.safetensors slide.tif --output stained.tif",
        "wasskit w2gn apply runs/w2gn/8gaussians points.npy --inverse --refine newton",
    ),
)
