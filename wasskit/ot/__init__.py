"""Optimal transport mathematics: Sinkhorn divergences, Gaussian transport, energy distance, conjugates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasskit._lazy import attach

_PUBLIC = {
    "bures_wasserstein_squared": "wasskit.ot.gaussian",
    "gaussian_transport_map": "wasskit.ot.gaussian",
    "nested_sinkhorn_divergences": "wasskit.ot.sinkhorn",
    "energy_distance": "wasskit.ot.energy",
}

__all__ = [
    "bures_wasserstein_squared",
    "energy_distance",
    "gaussian_transport_map",
    "nested_sinkhorn_divergences",
]

if TYPE_CHECKING:
    from wasskit.ot.energy import energy_distance as energy_distance
    from wasskit.ot.gaussian import bures_wasserstein_squared as bures_wasserstein_squared
    from wasskit.ot.gaussian import gaussian_transport_map as gaussian_transport_map
    from wasskit.ot.sinkhorn import nested_sinkhorn_divergences as nested_sinkhorn_divergences

__getattr__, __dir__ = attach(__name__, _PUBLIC)
