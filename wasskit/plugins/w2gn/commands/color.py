"""``wasskit w2gn color``: exchange the palettes of two photographs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions
from wasskit.plugins.w2gn.options import SamplingOptions, StepOptions, TransportOptions


@dataclass(frozen=True, kw_only=True)
class W2gnColor(TransportOptions):
    """Options of ``wasskit w2gn color``."""

    training: StepOptions = StepOptions(steps=1500)
    sampling: SamplingOptions = SamplingOptions()
    files: OverwriteOptions = OverwriteOptions()

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
    smooth: float = option(
        6.0,
        help="Average the map over a normal of this many grey levels when images are written, which softens its "
        "jumps (0: the map itself).",
        panel="Output",
        min=0,
        max=64,
    )
    save_map: Path | None = option(
        None, help="Also save the map here.", panel="Output", transient=True, show_default="map.safetensors in the run"
    )
    test_size: int = option(4096, help="Colours of each image in evaluations and figures.", panel="Run", min=100)

    def validate(self) -> None:
        super().validate()
        if len(self.images) not in (0, 2):
            raise UserError(f"Two photographs are needed, SOURCE and TARGET; got {len(self.images)}.")
        if self.images and (self.source is not None or self.target is not None):
            raise UserError("The photographs are given twice: leave out --source and --target.")
        if (self.source is None) != (self.target is None):
            raise UserError("--source and --target belong together: give both.")


def body(config: W2gnColor, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.data.photographs import sample_photographs
    from wasskit.distributed.group import is_main
    from wasskit.plugins.w2gn.core.task import fitted_transport
    from wasskit.plugins.w2gn.experiments.color import Palettes
    from wasskit.plugins.w2gn.fitting import conclude, samplers, train
    from wasskit.training.session import training_session

    if config.save_map is not None:
        config.files.refuse_existing(config.save_map, flag="--save-map")
    if config.images:
        source, target = (Path(word).expanduser().absolute() for word in config.images)
        config = dataclasses.replace(config, source=source, target=target, images=())
    with training_session(config, invocation, name="color") as session:
        config = session.config
        paths = (config.source, config.target) if config.source and config.target else sample_photographs()
        palettes = Palettes(
            paths, test_size=config.test_size, smooth=config.smooth, seed=config.run.seed,
            scheme=config.sampling.sampling, device=session.device,
        )  # fmt: skip
        x, y = samplers(session, palettes.source, palettes.target)
        trained = train(
            session, fitted_transport(config, 3, x, y), x, y, palettes.scores, monitor="test/energy_forward",
            about={
                "space": "rgb", "smooth": config.smooth, "source": paths[0].name, "target": paths[1].name,
            },
        )  # fmt: skip
        images = palettes.write_images(trained.transport, session.run.path) if is_main() else []
        if config.save_map is not None and is_main():
            copy(trained.map_path, config.save_map)
        report = palettes.report(trained.transport, trained.final, trained.history(), images)
        apply = ("apply", trained.map_path, "IMAGE")
        return conclude(trained, report, apply, (*apply, "--inverse"))


def copy(path: Path, destination: Path) -> None:
    """Copy a file to another place, whose folder is made."""
    from wasskit.system.files import writing

    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)


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
