"""Maps between any two clouds of points: their rows, the training, what the maps are worth, the estimator."""
