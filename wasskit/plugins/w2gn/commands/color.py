"""``wasskit w2gn color``: exchange the palettes of two photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions, complete_local_paths, override
from wasskit.plugins.w2gn.options import SamplingOptions, StepOptions, TransportOptions


@dataclass(frozen=True, kw_only=True)
class W2gnColor(TransportOptions, SamplingOptions, OverwriteOptions):
    """Options of ``wasskit w2gn color``."""

    images: tuple[str, ...] = argument(
        (),
        help="Two photographs (default: the two of scikit-learn).",
        complete=complete_local_paths,
        metavar="SOURCE TARGET",
    )
    source: Path | None = option(
        None, help="The first photograph, for recipes.", panel="Data", complete=complete_local_paths
    )
    target: Path | None = option(
        None, help="The second photograph, for recipes.", panel="Data", complete=complete_local_paths
    )
    steps: int = override(StepOptions, "steps", 1500)
    smooth: float = option(
        6.0,
        help="Average the map over a normal of this many grey levels when images are written, which softens its "
        "jumps (0: the map itself).",
        panel="Output",
        min=0,
        max=64,
    )
    save_map: Path | None = option(
        None,
        help="Also save the map here.",
        panel="Output",
        transient=True,
        show_default="map.safetensors in the run",
    )
    test_size: int = option(
        4096, help="Colours of each image in evaluations and figures.", panel="Run", min=100
    )

    def validate(self) -> None:
        super().validate()
        if len(self.images) not in (0, 2):
            raise UserError(f"Two photographs are needed, SOURCE and TARGET; got {len(self.images)}.")
        if self.images and (self.source is not None or self.target is not None):
            raise UserError("The photographs are given twice: leave out --source and --target.")
        if (self.source is None) != (self.target is None):
            raise UserError("--source and --target belong together: give both.")


def body(config: W2gnColor, invocation: Invocation) -> Mapping[str, Any]:
    import dataclasses
    import shutil

    import torch

    from wasskit import console
    from wasskit.distributed.group import is_main
    from wasskit.ot.energy import energy_distance, random_directions
    from wasskit.plugins.w2gn.core.evaluation import cloud_evaluation
    from wasskit.plugins.w2gn.core.task import dense_transport
    from wasskit.plugins.w2gn.experiments.palette import (
        LARGE,
        ColourTable,
        colour_function,
        colour_measure,
        colours_of,
        lossless_suffix,
        map_image,
        pixel_count,
        read_pixels,
        sample_photographs,
    )
    from wasskit.plugins.w2gn.fitting import history, next_steps, sampler, save_clouds, say_where, train
    from wasskit.system.files import writing
    from wasskit.training.session import training_session

    if config.save_map is not None:
        config.claim(config.save_map, flag="--save-map")
    if config.images:
        paths = (Path(config.images[0]).expanduser(), Path(config.images[1]).expanduser())
        config = dataclasses.replace(
            config, source=paths[0].absolute(), target=paths[1].absolute(), images=()
        )
    with training_session(config, invocation, name="color") as session:
        config = session.config
        paths = (config.source, config.target) if config.source and config.target else sample_photographs()
        measures = [colour_measure(colours_of(path)) for path in paths]
        device = session.device
        x = sampler(measures[0], config.seed, "source", config.sampling, device)
        y = sampler(measures[1], config.seed, "target", config.sampling, device)
        test_x, test_y = (draw(-(10**6), config.test_size) for draw in (x, y))
        transport = dense_transport(config, 3, x, y)
        trained = train(
            session, transport, x, y, cloud_evaluation(test_x, test_y), monitor="test/energy_forward",
            about={
                "space": "rgb", "smooth": config.smooth, "source": paths[0].name, "target": paths[1].name,
            },
        )  # fmt: skip
        maps = trained.transport.to(device)
        written = [colour_function(maps, inverse, smooth=config.smooth) for inverse in (False, True)]
        results: list[Path] = []
        figures: list[Path | None] = []
        if is_main():
            for path, function, word in zip(paths, written, ("forward", "inverse"), strict=True):
                destination = session.run.path / f"{path.stem}-{word}{lossless_suffix(path)}"
                map_image(path, destination, ColourTable(function, device))
                results.append(destination)
            if config.save_map is not None:
                with writing(config.save_map):
                    config.save_map.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(trained.map_path, config.save_map)
            from wasskit.plugins.w2gn import figures as draw

            folder = session.run.figures
            first, second = (path.stem for path in paths)
            if first == second:
                first, second = f"{first} (source)", f"{second} (target)"
            names = [first, f"{first}, mapped", second, f"{second}, mapped"]
            clouds = [test_x, written[0](test_x), test_y, written[1](test_y)]
            arrays = dict(zip(("source", "forward", "target", "inverse"), clouds, strict=True))
            save_clouds(session.run.path / "palette.npz", **arrays)
            order = [0, 1, 2, 2, 3, 0]
            panels = {f"{'abcdef'[i]}) {names[j]}": clouds[j] for i, j in enumerate(order)}
            figures.append(draw.palettes(folder / "palettes.png", panels))
            shown = [paths[0], results[0], paths[1], results[1]]
            if max(pixel_count(path) for path in shown) <= LARGE:
                small = {name: thumbnail(read_pixels(path)) for name, path in zip(names, shown, strict=True)}
                figures.append(draw.pictures(folder / "images.png", small))
            series = history(session, "test", ["energy_forward", "energy_inverse"])
            curves = {name.removeprefix("energy_"): values for name, values in series.items()}
            start = {"no map": trained.summary.final["test/energy_before"]}
            figures.append(
                draw.curves(folder / "energy.png", curves, ylabel="energy distance of palettes", lines=start)
            )
        final = dict(trained.summary.final)
        theta = random_directions(256, 3, like=test_x, generator=torch.Generator(device).manual_seed(0))
        for word, function, x_points, y_points in (
            ("forward", written[0], test_x, test_y),
            ("inverse", written[1], test_y, test_x),
        ):
            final[f"test/energy_{word}_written"] = float(energy_distance(function(x_points), y_points, theta))
        console.table(
            f"{paths[0].name} and {paths[1].name}",
            ["palettes", "value"],
            [
                ["energy distance before", final["test/energy_before"]],
                ["energy distance, forward", final["test/energy_forward"]],
                ["  as written (--smooth)", final["test/energy_forward_written"]],
                ["energy distance, inverse", final["test/energy_inverse"]],
                ["  as written (--smooth)", final["test/energy_inverse_written"]],
                ["forward and back, % of the variance", final["test/cycle_error"]],
                ["half squared W2 distance", final["test/half_w2"]],
            ],
            digits=5,
        )
        for result in results:
            console.result(f"Image: {console.escape(str(result))}")
        say_where(figures, trained.map_path)
        next_steps(
            ("apply", trained.map_path, "IMAGE"),
            ("apply", trained.map_path, "IMAGE", "--inverse"),
        )
    return trained.summary.as_dict() | {
        "final": final,
        "map": str(trained.map_path),
        "images": [str(path) for path in results],
        "run": str(session.run.path),
    }


def thumbnail(pixels: Any, side: int = 900) -> Any:
    """An image (H, W, 3) reduced to about ``side`` pixels."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).reduce(max(1, max(pixels.shape[:2]) // side)))


command = Command(
    "w2gn color",
    W2gnColor,
    body,
    "Exchange the palettes of two photographs.\n\n"
    "Fits the optimal maps between the colours of two images and applies "
    "the forward one to the first and the inverse one to the second, tile by tile. The palettes are drawn as points of "
    "the RGB cube. The map can be applied to other images by `wasskit w2gn apply`.",
    (
        "wasskit w2gn color",
        "wasskit w2gn color forest.jpg house.jpg --steps 3000",
        "wasskit w2gn color slide.tif reference.png --save-map stain.safetensors",
    ),
)
