"""How maps between two clouds without a known map are judged."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.distributed.shard import map_shards, mean_over_shards
from wasskit.evaluation.transport import forward_inverse_error, gaussian_distance
from wasskit.ot.energy import energy_distance
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.core.task import Evaluate
from wasskit.training.task import Progress


def cloud_evaluation(x: Tensor, y: Tensor, directions: int = 256) -> Evaluate:
    """Energy distances to the other cloud before and after either map, the distance of the moments, the
    cycle error.

    Args:
        x, y: test points (N, D) of the two measures.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    theta = torch.randn(directions, x.shape[1], generator=generator, device=x.device)
    before = float(energy_distance(x, y, theta))

    def evaluate(transport: W2GN, progress: Progress) -> dict[str, dict[str, float]]:
        forward, inverse = map_shards(transport.forward_map, x), map_shards(transport.inverse_map, y)
        return {
            "test": {
                "energy_before": before,
                "energy_forward": float(energy_distance(forward, y, theta)),
                "energy_inverse": float(energy_distance(inverse, x, theta)),
                "moments_forward": gaussian_distance(forward, y),
                "cycle_error": forward_inverse_error(x, map_shards(transport.inverse_map, forward)),
                "half_w2": half_squared_distance(transport, x, y),
            }
        }

    return evaluate


def half_squared_distance(transport: W2GN, x: Tensor, y: Tensor) -> float:
    """The estimate of half the squared distance from samples (N, D) of either measure. Called by all ranks."""

    def estimate(own_x: Tensor, own_y: Tensor) -> Tensor:
        return transport.half_squared_distance(transport(own_x, own_y), own_x, own_y)

    return float(mean_over_shards(estimate, x, y))
