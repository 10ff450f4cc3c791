"""The toy experiments: which measures, and how a map between them is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wasskit.data.toy import MEASURES, Measure, Whitening, measure, modes, normal
from wasskit.distributed.shard import map_shards
from wasskit.errors import UserError
from wasskit.evaluation.transport import forward_inverse_error
from wasskit.ot.energy import energy_distance
from wasskit.plugins.w2gn.core.evaluation import half_squared_distance
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.core.task import Evaluate
from wasskit.training.task import Progress

if TYPE_CHECKING:
    from wasskit.plugins.w2gn.commands.toy import W2gnToy


def measures(config: W2gnToy) -> tuple[Measure, Measure, Whitening | None]:
    """Source and target, the target whitened where asked for.

    Raises:
        UserError: a name is unknown, a file unreadable, or the dimensions differ.
    """
    source, target = measure(config.source), measure(config.target)
    if config.source == "normal":
        source = normal(target.dim)
    elif config.target == "normal":
        target = normal(source.dim)
    if source.dim != target.dim:
        raise UserError(
            f"--source {config.source} has dimension {source.dim} and --target {config.target} dimension {target.dim}: "
            "a map needs two clouds of the same dimension."
        )
    if not (config.target in MEASURES if config.whiten is None else config.whiten):
        return source, target, None
    whitening = Whitening(target.draw(100_000, config.seed, "whitening"))
    return source, target.mapped(whitening), whitening


def evaluation(
    name: str, target: Measure, x: Tensor, y: Tensor, whitening: Whitening | None, seed: int = 0
) -> Evaluate:
    """Energy distances of both maps on test points, the cycle error, the distance, and the modes that are
    reached.

    ``energy_floor`` is what the unbiased estimate, whose mean is then zero, comes to between two samples of the
    target of the test points' number: its root mean square over eight pairs.

    Args:
        name: of the target, by which its modes are known.
        x, y: test points (N, D) of the two measures.
        whitening: what the target was whitened by.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    directions = torch.randn(256, x.shape[1], generator=generator, device=x.device)
    samples = [target.draw(len(y), seed, "floor", i, device=y.device) for i in range(16)]
    distances = [energy_distance(a, b, directions) for a, b in zip(samples[::2], samples[1::2], strict=True)]
    floor = float(torch.stack(distances).square().mean().sqrt())
    mixture = modes(name)

    def near(points: Tensor) -> tuple[int, float]:
        assert mixture is not None
        plain = points.double() if whitening is None else whitening.undo(points.double())
        return modes_reached(plain.cpu(), *mixture)

    def evaluate(transport: W2GN, progress: Progress) -> dict[str, dict[str, float]]:
        forward, inverse = map_shards(transport.forward_map, x), map_shards(transport.inverse_map, y)
        values = {
            "energy_forward": float(energy_distance(forward, y, directions)),
            "energy_inverse": float(energy_distance(inverse, x, directions)),
            "energy_floor": floor,
            "cycle_error": forward_inverse_error(x, map_shards(transport.inverse_map, forward)),
            "half_w2": half_squared_distance(transport, x, y),
        }
        if mixture is not None:
            reached, share = near(forward)
            values |= {"modes": float(reached), "modes_of": float(len(mixture[0]))}
            values |= {"near_modes": share, "near_modes_target": near(y)[1]}
        return {"test": values}

    return evaluate


def modes_reached(points: Tensor, centers: Tensor, std: float) -> tuple[int, float]:
    """How many modes get at least half their share of points (N, 2) within three standard deviations, and the
    percentage of points that lie that near to any.
    """
    nearest = torch.cdist(points, centers.to(points), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    near = nearest.values < 3.0 * std
    counts = torch.bincount(nearest.indices[near], minlength=len(centers))
    return int((counts >= 0.5 * len(points) / len(centers)).sum()), 100.0 * float(near.double().mean())


def plane_grid(points: Tensor, lines: int = 21) -> Tensor:
    """A regular grid (lines, lines, 2) over a cloud in the plane (N, 2)."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    steps = torch.linspace(0, 1, lines, device=points.device)[:, None]
    sides = low + (high - low) * steps
    return torch.stack(torch.meshgrid(sides[:, 0], sides[:, 1], indexing="ij"), dim=-1)
