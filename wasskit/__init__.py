"""wasskit: learning and measuring representations with Wasserstein distances.

The public names are imported when they are used: ``import wasskit`` costs nothing, ``wasskit.W2UniformityLoss`` loads
torch and the one module that defines it. Tensors in, tensors out, batch first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasskit._lazy import attach

__version__ = "0.2.0"

_PUBLIC = {
    "wasskit.plugins.models": ("load",),
    "wasskit.plugins.hub": ("HubModel",),
    "wasskit.plugins.mrl.adapt.estimator": ("MatryoshkaAdaptor",),
    "wasskit.plugins.mrl.loss": ("MatryoshkaWassersteinLoss",),
    "wasskit.plugins.mrl.search.index": ("PrefixIndex",),
    "wasskit.plugins.ssl.losses": ("W2UniformityLoss",),
    "wasskit.plugins.metrix.objective": ("MetrixLoss",),
    "wasskit.plugins.w2gn.core.transport": ("W2GN",),
    "wasskit.plugins.w2gn.clouds.estimator": ("TransportMap",),
    "wasskit.models.icnn": ("DenseICNN", "ConvICNN"),
    "wasskit.ot.gaussian": ("bures_wasserstein_squared", "gaussian_transport_map"),
    "wasskit.ot.sinkhorn": ("nested_sinkhorn_divergences",),
    "wasskit.ot.energy": ("energy_distance",),
    "wasskit.ot.divergence": ("sinkhorn_divergence",),
    "wasskit.ot.sliced": ("sliced_wasserstein_squared", "sliced_gaussian_wasserstein_squared"),
    "wasskit.ot.directions": ("slicing_directions",),
    "wasskit.ot.assignment": ("assignment_wasserstein_squared",),
    "wasskit.ot.affine": ("gaussian_maps",),
    "wasskit.evaluation.accuracy": ("topk_accuracy", "class_map_at_k"),
    "wasskit.evaluation.knn": ("knn_accuracy",),
    "wasskit.evaluation.retrieval": ("recall_at_k", "map_at_r"),
    "wasskit.evaluation.uniformity": ("alignment", "gaussian_uniformity", "w2_uniformity", "singular_spectrum"),
    "wasskit.evaluation.transport": ("l2_uvp", "frechet_distance"),
    "wasskit.evaluation.label_free": ("rankme", "alpha_req", "lidar", "sliced_uniformity"),
    "wasskit.evaluation.gaussianity": ("sigreg_statistic",),
}

if TYPE_CHECKING:
    from wasskit.evaluation.accuracy import class_map_at_k as class_map_at_k
    from wasskit.evaluation.accuracy import topk_accuracy as topk_accuracy
    from wasskit.evaluation.gaussianity import sigreg_statistic as sigreg_statistic
    from wasskit.evaluation.knn import knn_accuracy as knn_accuracy
    from wasskit.evaluation.label_free import alpha_req as alpha_req
    from wasskit.evaluation.label_free import lidar as lidar
    from wasskit.evaluation.label_free import rankme as rankme
    from wasskit.evaluation.label_free import sliced_uniformity as sliced_uniformity
    from wasskit.evaluation.retrieval import map_at_r as map_at_r
    from wasskit.evaluation.retrieval import recall_at_k as recall_at_k
    from wasskit.evaluation.transport import frechet_distance as frechet_distance
    from wasskit.evaluation.transport import l2_uvp as l2_uvp
    from wasskit.evaluation.uniformity import alignment as alignment
    from wasskit.evaluation.uniformity import gaussian_uniformity as gaussian_uniformity
    from wasskit.evaluation.uniformity import singular_spectrum as singular_spectrum
    from wasskit.evaluation.uniformity import w2_uniformity as w2_uniformity
    from wasskit.models.icnn import ConvICNN as ConvICNN
    from wasskit.models.icnn import DenseICNN as DenseICNN
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
    from wasskit.plugins.hub import HubModel as HubModel
    from wasskit.plugins.metrix.objective import MetrixLoss as MetrixLoss
    from wasskit.plugins.models import load as load
    from wasskit.plugins.mrl.adapt.estimator import MatryoshkaAdaptor as MatryoshkaAdaptor
    from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss as MatryoshkaWassersteinLoss
    from wasskit.plugins.mrl.search.index import PrefixIndex as PrefixIndex
    from wasskit.plugins.ssl.losses import W2UniformityLoss as W2UniformityLoss
    from wasskit.plugins.w2gn.clouds.estimator import TransportMap as TransportMap
    from wasskit.plugins.w2gn.core.transport import W2GN as W2GN

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
__all__ += ["__version__"]
