"""What ``wasskit study`` alone measures. W2 and L_U are negated, as the paper plots them: larger is more uniform."""

from __future__ import annotations

from wasskit.evaluation.metrics import COMMON, Metric, Metrics

METRICS = Metrics(
    [
        Metric("neg_w2", "max", "-W2", "as w2, mean over seeds"),
        Metric("neg_lu", "max", "-L_U", "as lu, mean over seeds"),
        Metric("neg_w2_exact", "max", "-W2 exact", "of the law itself"),
        Metric("neg_lu_exact", "max", "-L_U exact", "of the law itself"),
        Metric("tv", "min", "TV", "total variation of a coordinate of the sphere and N(0, 1 / m)"),
        Metric("tv_sampled_bins", "min", "TV sampled bins", "as tv, of histograms of samples"),
        Metric("w1", "min", "W1", "1-Wasserstein distance of a coordinate of the sphere and N(0, 1 / m)"),
        Metric("k", None, "k", "shift of both coordinates"),
        Metric("mean_norm", "min", "length of the mean", "of unit embeddings"),
        Metric("used_dims", "max", "dimensions in use", "of unit embeddings"),
        Metric("frechet", "min", "Frechet", "squared Frechet distance of two sets of embeddings"),
        Metric("sliced_w2_squared", "min", "sliced W2^2", "squared sliced W2 distance of two sets of embeddings"),
        Metric("energy", "min", "energy distance", "sliced energy distance of two sets of embeddings, unbiased"),
        Metric("{name}_spearman", None, "Spearman, {name}", "rank correlation of that measure with an accuracy"),
        Metric("{name}_kendall", None, "Kendall, {name}", "rank correlation of that measure with an accuracy"),
        Metric("{name}_p", None, "p, {name}", "permutation p-value of that distance"),
        Metric("alpha_req", None, "alpha-ReQ", "decay of the covariance's eigenvalues with their rank"),
        Metric("alpha_req_gap", "min", "|alpha-ReQ - 1|", "distance of alpha-ReQ from 1, where it is said to be best"),
        Metric("sliced_w2", "min", "sliced W2", "sliced W2 distance of unit embeddings to N(0, I / m), by sqrt m"),
        Metric("lidar", "max", "LiDAR", "entropy rank of the discriminant matrix of views"),
    ],
    COMMON,
)
