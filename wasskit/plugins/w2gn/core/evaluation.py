"""How a pair of maps is judged by test points of both measures, without a known map."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wasskit.distributed.shard import map_shards, mean_over_shards
from wasskit.evaluation.transport import forward_inverse_error
from wasskit.ot.energy import energy_distance
from wasskit.plugins.w2gn.core.transport import W2GN


def map_scores(transport: W2GN, x: Tensor, y: Tensor, directions: Tensor) -> tuple[dict[str, float], Tensor]:
    """Energy distances of both maps, the cycle error and the distance. Called by all ranks.

    Args:
        x, y: test points (N, D) of the two measures.
        directions: of the energy distance, (K, D).

    Returns:
        The metrics, and the images (N, D) of ``x``.
    """
    forward, inverse = map_shards(transport.forward_map, x), map_shards(transport.inverse_map, y)
    scores = {
        "energy_forward": float(energy_distance(forward, y, directions)),
        "energy_inverse": float(energy_distance(inverse, x, directions)),
        "cycle_error": forward_inverse_error(x, map_shards(transport.inverse_map, forward)),
        "half_w2": half_squared_distance(transport, x, y),
    }
    return scores, forward


def half_squared_distance(transport: W2GN, x: Tensor, y: Tensor) -> float:
    """The estimate of half the squared distance from samples (N, D) of either measure. Called by all ranks."""

    def estimate(own_x: Tensor, own_y: Tensor) -> Tensor:
        return transport.half_squared_distance(transport(own_x, own_y), own_x, own_y)

    return float(mean_over_shards(estimate, x, y))


def flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics by split as ``split/metric``."""
    return {f"{split}/{name}": value for split, own in scores.items() for name, value in own.items()}
