"""The toy experiments: which measures, and how a map between them is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wasskit.data.toy import Measure, Whitening, measure, modes
from wasskit.errors import UserError
from wasskit.evaluation.transport import forward_inverse_error
from wasskit.ot.energy import energy_distance
from wasskit.plugins.w2gn.objective import W2GN
from wasskit.plugins.w2gn.task import Evaluate
from wasskit.training.task import Progress

if TYPE_CHECKING:
    from wasskit.plugins.w2gn.commands.toy import W2gnToy


def measures(config: W2gnToy) -> tuple[Measure, Measure, Whitening | None]:
    """Source and target, the target whitened where asked for.

    Raises:
        UserError: a name is unknown, a file unreadable, or the dimensions differ.
    """
    source, target = measure(config.source), measure(config.target)
    if config.source == "normal" and target.dim != 2:
        from wasskit.data.toy import normal

        source = normal(target.dim)
    if source.dim != target.dim:
        raise UserError(
            f"--source {config.source} has dimension {source.dim} and --target {config.target} dimension {target.dim}: "
            "a map needs two clouds of the same dimension."
        )
    if not config.whiten:
        return source, target, None
    whitening = Whitening(target.draw(100_000, config.seed, "whitening"))
    return source, target.mapped(whitening), whitening


def evaluation(name: str, x: Tensor, y: Tensor, whitening: Whitening | None) -> Evaluate:
    """Energy distances of both maps on test points, the cycle error, the distance, and the modes that are
    reached.

    ``energy_floor`` is the distance between the two halves of the target's test points: what a perfect map
    scores on samples of half this size is about as much.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    directions = torch.randn(256, x.shape[1], generator=generator, device=x.device)
    half = len(y) // 2
    floor = float(energy_distance(y[:half], y[half:], directions).abs())
    mixture = modes(name)

    def evaluate(transport: W2GN, progress: Progress) -> dict[str, dict[str, float]]:
        forward, inverse = transport.forward_map(x), transport.inverse_map(y)
        objective = transport(x, y)
        values = {
            "energy_forward": float(energy_distance(forward, y, directions)),
            "energy_inverse": float(energy_distance(inverse, x, directions)),
            "energy_floor": floor,
            "cycle_error": forward_inverse_error(x, transport.inverse_map(forward)),
            "half_w2": float(transport.half_squared_distance(objective, x, y)),
        }
        if mixture is not None:
            centers, std = mixture
            plain = forward.double() if whitening is None else whitening.undo(forward.double())
            values["modes"] = float(reached(plain.cpu(), centers, std))
            values["modes_of"] = float(len(centers))
        return {"test": values}

    return evaluate


def reached(points: Tensor, centers: Tensor, std: float) -> int:
    """How many modes get at least half their share of points within three standard deviations."""
    distances = torch.cdist(points, centers.to(points))
    near = distances.min(1)
    counts = torch.bincount(near.indices[near.values < 3.0 * std], minlength=len(centers))
    return int((counts >= 0.5 * len(points) / len(centers)).sum())


def plane_grid(points: Tensor, lines: int = 21) -> Tensor:
    """A regular grid (lines, lines, 2) over a cloud in the plane (N, 2)."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    steps = torch.linspace(0, 1, lines, device=points.device)[:, None]
    sides = low + (high - low) * steps
    return torch.stack(torch.meshgrid(sides[:, 0], sides[:, 1], indexing="ij"), dim=-1)
