"""Input-convex neural networks with closed-form gradient maps.

An input-convex network (Amos, Xu and Kolter, 2017) is a scalar function psi that is convex in its input,
because its hidden weights are non-negative and its activations are convex and non-decreasing. By Brenier's
theorem its gradient is an optimal transport map for the quadratic cost, which is what Wasserstein-2
generative networks (Korotin et al., 2021) fit.

The gradient map is written here as the network's own backward recursion, and for dense networks its derivative as
well: a loss on the map needs one backward pass instead of a differentiated backward pass, compiles, and can be captured
in a CUDA graph. Values are computed in the same sweep, so a potential and its map cost one evaluation together.
"""

from wasskit.models.icnn.conv import ConvICNN
from wasskit.models.icnn.dense import ConvexQuadratic, DenseICNN
from wasskit.models.icnn.mean import MeanPotential, members_of
from wasskit.models.icnn.potential import Activation, AffinePotential, Potential, QuadraticPotential

__all__ = [
    "Activation",
    "AffinePotential",
    "ConvICNN",
    "ConvexQuadratic",
    "DenseICNN",
    "MeanPotential",
    "Potential",
    "QuadraticPotential",
    "members_of",
]
