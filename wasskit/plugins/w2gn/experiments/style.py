"""The style experiment: potentials, batches, measures and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wasskit import console
from wasskit.config import Invocation
from wasskit.data.transfer import sent
from wasskit.distributed.group import is_main
from wasskit.distributed.shard import map_shards
from wasskit.evaluation.transport import forward_inverse_error
from wasskit.models.icnn import ConvICNN, Potential, QuadraticPotential
from wasskit.ot.energy import energy_distance
from wasskit.ot.gaussian import balance, streamed_moments
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.core.stages import chosen
from wasskit.plugins.w2gn.core.task import Draw, Evaluate, objective_settings
from wasskit.plugins.w2gn.experiments.images import image_folders, photograph_patches, scaled, unscaled
from wasskit.plugins.w2gn.fitting import next_steps, say_where, train
from wasskit.training.session import training_session
from wasskit.training.task import Progress

if TYPE_CHECKING:
    from wasskit.plugins.w2gn.commands.style import W2gnStyle


def run_style(config: W2gnStyle, invocation: Invocation) -> Mapping[str, Any]:
    """The command's body."""
    with training_session(config, invocation, name="style") as session:
        config = session.config
        device = session.device
        if config.images is not None:
            first, second = image_folders(config.images, config.image_size)
        else:
            first, second = photograph_patches(config.image_size, config.patches, config.seed)
        transport = conv_transport(config, first.train, second.train)
        x, y = (
            batches(domain.train, config.seed, side, device)
            for domain, side in ((first, "source"), (second, "target"))
        )
        estimate(config, transport, x, y, device)
        tests = [scaled(domain.test[:64]).to(device) for domain in (first, second)]
        trained = train(
            session,
            transport,
            x,
            y,
            image_evaluation(*tests),
            about={"space": "images", "domains": [first.name, second.name]},
        )
        maps, final = trained.transport.to(device), trained.summary.final
        figures = []
        if is_main():
            from wasskit.plugins.w2gn import figures as draw

            count = 24 if config.image_size <= 64 else 12
            a, b = (part[:count] for part in tests)
            rows = {
                f"{first.name}, test images": a,
                f"mapped to {second.name}": maps.forward_map(a, 16),
                f"{second.name}, test images": b,
                f"mapped to {first.name}": maps.inverse_map(b, chunk=16),
            }
            sheets = {name: unscaled(images) for name, images in rows.items()}
            figures.append(draw.sheet(session.run.figures / "mapped.png", sheets, 12))
        console.table(
            f"{first.name} and {second.name}, {config.image_size} pixels",
            ["on test images", "value"],
            [
                ["energy distance of colours, before", final["test/colours_before"]],
                ["  forward", final["test/colours_forward"]],
                ["  inverse", final["test/colours_inverse"]],
                ["energy distance of images, before", final["test/energy_before"]],
                ["  forward", final["test/energy_forward"]],
                ["forward and back, % of the variance", final["test/cycle_error"]],
            ],
            digits=4,
        )
        say_where(figures, trained.map_path)
        next_steps(("style", "--images", "FOLDER"), ("apply", trained.map_path, "IMAGE"))
    return trained.summary.as_dict() | {"map": str(trained.map_path), "run": str(session.run.path)}


def conv_transport(config: W2gnStyle, first: Tensor, second: Tensor) -> W2GN:
    """Two convolutional potentials: starting at the transport of the colours' Gaussians or at the identity,
    or to be pre-trained to it.

    Args:
        first, second: training images (N, 3, S, S) uint8.
    """
    pair: list[Potential] = []
    for _ in range(2):
        network = ConvICNN(config.image_size, 3, config.width, config.strong_convexity)
        network.convexify()
        if config.start != "pretrain":
            network.thin_out()
        pair.append(network if config.start == "pretrain" else QuadraticPotential(network))
    coordinates = None
    if config.start == "gaussian":
        colours = [streamed_moments(pixels(part) for part in images.split(256)) for images in (first, second)]
        coordinates = balance(
            colours[0].mean, colours[0].covariance, colours[1].mean, colours[1].covariance, 1e-3
        )
    transport = W2GN(pair[0], pair[1], coordinates=coordinates, **objective_settings(config))
    if config.start != "pretrain":
        transport.center(scaled(first[:256]), scaled(second[:256]))
    return transport


def pixels(images: Tensor) -> Tensor:
    """The colours (N, 3) of images, in [-1, 1]."""
    return scaled(images).permute(0, 2, 3, 1).reshape(-1, 3)


def batches(images: Tensor, seed: int, side: str, device: torch.device) -> Draw:
    """Batches of a domain by number, mirrored at random."""

    def draw(number: int, count: int, rows: range | None = None) -> Tensor:
        batch = scaled(chosen(images, count, seed, side, number, rows=rows))
        mirrored = torch.tensor(rows or range(count)) % 2 == 1
        batch[mirrored] = batch[mirrored].flip(3)
        return sent(batch, device)

    return draw


def estimate(config: W2gnStyle, transport: W2GN, x: Draw, y: Draw, device: torch.device) -> None:
    """Time one step, say how long the training takes, and advise a GPU where it would take hours."""
    if device.type != "cpu":
        return
    start = time.perf_counter()
    transport(x(-1, 2), y(-1, 2)).total.backward()
    transport.zero_grad(set_to_none=True)
    seconds = (time.perf_counter() - start) * config.batch_size / 2 * config.steps
    words = f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
    console.log(f"About {words} of training on this machine.")
    if config.image_size >= 96 or seconds > 3600:
        console.warn(
            f"At {config.image_size} pixels and width {config.width} a GPU is advised (about {words} here); a smaller "
            "--image-size, --width or --steps is faster."
        )


def image_evaluation(x: Tensor, y: Tensor) -> Evaluate:
    """Energy distances of whole images and of their colours before and after the maps, and the cycle
    error.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    theta = torch.randn(256, x[0].numel(), generator=generator, device=x.device)

    def colours(images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
        return pixels[:: max(1, len(pixels) // 4096)]

    palette = torch.randn(128, 3, generator=generator, device=x.device)

    def evaluate(transport: W2GN, progress: Progress) -> dict[str, dict[str, float]]:
        forward = map_shards(partial(transport.forward_map, chunk=16), x)
        inverse, back = (map_shards(partial(transport.inverse_map, chunk=16), z) for z in (y, forward))
        flat_x, flat_y = x.flatten(1), y.flatten(1)
        return {
            "test": {
                "energy_before": float(energy_distance(flat_x, flat_y, theta)),
                "energy_forward": float(energy_distance(forward.flatten(1), flat_y, theta)),
                "colours_before": float(energy_distance(colours(x), colours(y), palette)),
                "colours_forward": float(energy_distance(colours(forward), colours(y), palette)),
                "colours_inverse": float(energy_distance(colours(inverse), colours(x), palette)),
                "cycle_error": forward_inverse_error(flat_x, back.flatten(1)),
            }
        }

    return evaluate
