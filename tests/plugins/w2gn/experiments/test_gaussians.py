"""Pairs of Gaussians and their closed form."""

from __future__ import annotations

import pytest
import torch

from wasskit.plugins.w2gn.experiments.gaussians import PUBLISHED, gaussian_pair


def test_gaussian_pair_has_the_published_spectrum_and_its_closed_form() -> None:
    pair = gaussian_pair(8, 0, 2000)
    for measure, variance in ((pair.source, pair.source_variance), (pair.target, pair.target_variance)):
        points = measure.draw(1 << 16, 1, scheme="sobol").double()
        eigenvalues = torch.linalg.eigvalsh(points.T.cov())
        torch.testing.assert_close(
            eigenvalues, torch.logspace(-2, 2, 8, base=2, dtype=torch.float64), rtol=0.03, atol=0
        )
        assert float(eigenvalues.sum()) == pytest.approx(variance, rel=0.01)
    scores = pair.compare(pair.y, pair.x)
    assert scores["uvp_forward"] == scores["uvp_inverse"] == 0
    assert scores["cosine_forward"] == pytest.approx(1)
    assert pair.compare(pair.x, pair.y)["uvp_forward"] > 5


def test_published_rows() -> None:
    assert PUBLISHED["W2GN, published"][1024] == "1.7"
    assert PUBLISHED["large-scale OT, published"][16] == "14.3"
