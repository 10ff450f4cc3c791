"""Optimal transport mathematics: Sinkhorn divergences, Gaussian transport, energy distance, conjugates."""
