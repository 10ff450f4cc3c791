"""Pairs of Gaussians, whose optimal map has a closed form."""

from __future__ import annotations

import torch

from wasskit.data.seeds import derive_seed
from wasskit.data.toy import gaussian
from wasskit.ot.gaussian import gaussian_transport_map
from wasskit.plugins.w2gn.experiments.pairs import KnownPair

# Korotin et al. (2021), table 1: L2-UVP in percent of Gaussian pairs, by dimension ("<1" as 1).
PUBLISHED = {
    "W2GN, published": dict(
        zip(
            [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
            ["<1"] * 6 + ["1", "1.1", "1.3", "1.7", "1.8", "1.5"],
            strict=True,
        )
    ),
    "large-scale OT, published": dict(
        zip(
            [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
            ["<1", "3.7", "7.5", "14.3", "23", "34.7", "46.9", *[">50"] * 5],
            strict=True,
        )
    ),
}


def gaussian_pair(dim: int, seed: int, test_size: int) -> KnownPair:
    """Two centred Gaussians as in the paper: eigenvalues from 1/4 to 4 at equal ratios, in random directions."""
    factors = []
    for side in ("source", "target"):
        generator = torch.Generator().manual_seed(derive_seed(seed, "gaussian", side, dim))
        square = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
        basis, triangle = torch.linalg.qr(square)
        # The signs of the diagonal make the basis uniform among the rotations (Mezzadri, 2007).
        basis = basis * triangle.diagonal().sign()
        roots = torch.logspace(-1.0, 1.0, dim, base=2.0, dtype=torch.float64)
        factors.append(basis * roots)
    covariances = [factor @ factor.T for factor in factors]
    mapping = gaussian_transport_map(*covariances)
    source, target = (gaussian(factor.float()) for factor in factors)
    x = source.draw(test_size, seed, "test")
    return KnownPair(
        name=f"gaussians {dim}",
        dim=dim,
        source=source,
        target=target,
        forward=lambda points: (points.double() @ mapping).to(points),
        x=x,
        y=(x.double() @ mapping).float(),
        source_variance=float(covariances[0].trace()),
        target_variance=float(covariances[1].trace()),
    )
