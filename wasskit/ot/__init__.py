"""Optimal transport mathematics: Sinkhorn divergences, sliced and Gaussian transport, energy distance, conjugates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasskit._lazy import attach

_PUBLIC = {
    "wasskit.ot.gaussian": ("bures_wasserstein_squared", "gaussian_transport_map"),
    "wasskit.ot.sinkhorn": ("nested_sinkhorn_divergences",),
    "wasskit.ot.energy": ("energy_distance",),
    "wasskit.ot.divergence": ("sinkhorn_divergence",),
    "wasskit.ot.sliced": ("sliced_wasserstein_squared", "sliced_gaussian_wasserstein_squared"),
    "wasskit.ot.directions": ("slicing_directions",),
    "wasskit.ot.affine": ("gaussian_maps",),
    "wasskit.ot.assignment": ("assignment_wasserstein_squared",),
}

if TYPE_CHECKING:
    from wasskit.ot.affine import gaussian_maps as gaussian_maps
    from wasskit.ot.assignment import assignment_wasserstein_squared as assignment_wasserstein_squared
    from wasskit.ot.directions import slicing_directions as slicing_directions
    from wasskit.ot.divergence import sinkhorn_divergence as sinkhorn_divergence
    from wasskit.ot.energy import energy_distance as energy_distance
    from wasskit.ot.gaussian import bures_wasserstein_squared as bures_wasserstein_squared
    from wasskit.ot.gaussian import gaussian_transport_map as gaussian_transport_map
    from wasskit.ot.sinkhorn import nested_sinkhorn_divergences as nested_sinkhorn_divergences
    from wasskit.ot.sliced import sliced_gaussian_wasserstein_squared as sliced_gaussian_wasserstein_squared
    from wasskit.ot.sliced import sliced_wasserstein_squared as sliced_wasserstein_squared

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
