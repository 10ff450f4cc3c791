"""What ``wasskit ssl`` alone measures."""

from __future__ import annotations

from wasskit.evaluation.metrics import COMMON, Metric, Metrics, share

_PROBE = "linear classifier on frozen features of random crops and flips, tested on whole images"

METRICS = Metrics(
    [
        Metric("method", "min", "loss of the method", "the training objective without its uniformity term"),
        Metric("w2_weight", None, "weight of W2", "factor of the uniformity term at this epoch"),
        Metric("lu_weight", None, "weight of L_U", "factor of the uniformity term at this epoch"),
        Metric("vicreg", "min", "VICReg", "variance and covariance terms of the projections of a batch"),
        Metric("visreg", "min", "VISReg", "centre, scale and sliced shape of the projections of a batch"),
        Metric("vicreg_weight", None, "weight of VICReg", "factor of the regulariser at this epoch"),
        Metric("sigreg_weight", None, "weight of SIGReg", "factor of the regulariser at this epoch"),
        Metric("visreg_weight", None, "weight of VISReg", "factor of the regulariser at this epoch"),
        share("linear_top{k}", "linear top-{k}", f"{_PROBE}; after the last epoch"),
        share("linear_best_top1", "best linear top-1", f"{_PROBE}; at the epoch where it is highest"),
        Metric("linear_best_epoch", None, "best epoch of the probe", _PROBE),
        share("knn{k}_top{n}_cropped", "{k}-NN top-{n}, cropped", "k-NN of random crops among whole images"),
    ],
    COMMON,
)
