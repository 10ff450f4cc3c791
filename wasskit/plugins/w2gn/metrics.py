"""What ``wasskit w2gn`` alone measures."""

from __future__ import annotations

from wasskit.evaluation.metrics import COMMON, Metric, Metrics, share

_ENERGY = "sliced energy distance to the test points of the other measure"
_LEVEL = "a level to compare with"
_NEAREST = "share of mapped source features whose nearest target feature has their label"
_HEAD = "share of mapped source features that the target's classifier gets right"
_FID = "Frechet distance of Inception features to the training images"

_GAIN = "dual value over the Gaussian start's"

_WAYS = ("forward", "inverse")
_MAPS = ("mapped", "before", "gaussian", "discrete")

METRICS = Metrics(
    [
        Metric("correlation", None, "correlation term", "of the objective"),
        Metric("residual", "min", "residual", "mean |forward(inverse(y)) - y|"),
        Metric("amortisation", "min", "amortisation", "error of the conjugate network against solved conjugates"),
        Metric("cycle_x", "min", "cycle loss, source", "mean squared entry of inverse(forward(x)) - x"),
        Metric("cycle_y", "min", "cycle loss, target", "mean squared entry of forward(inverse(y)) - y"),
        Metric("half_w2", None, "W2^2 / 2", "dual estimate of half the squared 2-Wasserstein distance"),
        Metric("cycle_error", "min", "cycle error", "mean |inverse(forward(x)) - x|^2 over the variance of x", "%"),
        Metric("energy_before", None, "energy before", f"{_ENERGY}, without a map; {_LEVEL}"),
        Metric("energy_floor", None, "energy floor", f"root mean square between samples of the target; {_LEVEL}"),
        Metric("energy_gaussian", None, "energy Gaussian", f"{_ENERGY}, of a fitted Gaussian; {_LEVEL}"),
        Metric("energy_training", None, "energy training", f"{_ENERGY}, of training points; {_LEVEL}"),
        *(Metric(f"energy_{name}", "min", f"energy {name}", f"{_ENERGY}, after the map") for name in _WAYS),
        Metric("images_before", None, "images before", f"sliced energy distance of decoded images; {_LEVEL}"),
        Metric("images_gaussian", None, "images Gaussian", f"as images_before, of a fitted Gaussian; {_LEVEL}"),
        Metric("images_training", None, "images training", f"as images_before, of training points; {_LEVEL}"),
        Metric("images_forward", "min", "images forward", "sliced energy distance of decoded mapped points"),
        Metric("colours_before", None, "colours before", f"energy distance of pixels; {_LEVEL}"),
        *(
            Metric(f"colours_{name}", "min", f"colours {name}", "energy distance of pixels after the map")
            for name in _WAYS
        ),
        Metric(
            "moments_forward",
            "min",
            "moments forward",
            "squared Bures-Wasserstein distance to the target's mean and covariance",
        ),
        Metric("modes", "max", "modes reached", "modes that get at least half their share of mapped points"),
        Metric("modes_of", None, "modes of the target", "their number"),
        share("near_modes", "points near modes", "mapped points within three deviations of a mode"),
        share("near_modes_target", "target near modes", f"as near_modes, of the target; {_LEVEL}", None),
        *(
            Metric(f"uvp_{name}", "min", f"L2-UVP {name}", "error of the map over the variance of its target", "%")
            for name in _WAYS
        ),
        Metric("uvp_inverse_solved", "min", "L2-UVP inverse solved", "as uvp_inverse, conjugates solved", "%"),
        *(Metric(f"cosine_{name}", "max", f"cosine {name}", "of true and estimated displacements") for name in _WAYS),
        *(share(f"knn_{name}", f"k-NN {name}", _NEAREST) for name in _MAPS),
        Metric("gain", "max", "gain", f"{_GAIN}, of both maps' potentials"),
        *(Metric(f"gain_{name}", "max", f"gain {name}", f"{_GAIN}, of one map's potential") for name in _WAYS),
        Metric("energy_mapped_gaussian", None, "energy Gaussian map", f"{_ENERGY}, after the Gaussian map; {_LEVEL}"),
        Metric("uvp_gaussian", None, "L2-UVP Gaussian", f"as uvp_forward, of the Gaussian map; {_LEVEL}", "%"),
        Metric("cycle_error_target", "min", "cycle error, target", "as cycle_error, from the target and back", "%"),
        Metric("w2_dual", None, "W2", "2-Wasserstein distance, by duality"),
        Metric("w2_dual_error", None, "W2 error", "standard error of w2_dual"),
        Metric("w2_displacement", None, "displacement", "root mean square of what the forward map moves by"),
        Metric("w2_gaussian", None, "W2 Gaussian", "2-Wasserstein distance of the two Gaussians"),
        Metric("w2_discrete", None, "W2 discrete", "exact 2-Wasserstein distance of samples"),
        share("classifier_target", "classifier target", "test images of the target that its classifier gets right"),
        *(share(f"classifier_{name}", f"classifier {name}", _HEAD) for name in _MAPS),
        Metric("reconstruction", "min", "reconstruction error", "mean squared error of test pixels in [-1, 1]"),
        *(Metric(f"fid_{name}", "min", f"FID {name}", _FID) for name in ("raw", "mapped", "reconstructed")),
    ],
    COMMON,
)
