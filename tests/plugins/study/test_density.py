"""Histograms against the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wasskit.plugins.study.density import histogram, joint_histogram


@pytest.mark.parametrize("m", [2, 8, 64])
@pytest.mark.parametrize("law", ["sphere", "gauss"])
def test_histograms_against_the_reference(reference: Callable[[str], dict[str, Any]], law: str, m: int) -> None:
    study = reference("ssl_density")
    points = study[f"{law}_{m}"]
    assert np.allclose(histogram(points[:, 0]), study[f"{law}_density1d_{m}"], atol=1e-15)
    assert np.allclose(joint_histogram(points), study[f"{law}_density2d_{m}"], atol=1e-15)


def test_edges() -> None:
    assert histogram(np.array([-1.0, 0.0, 1.0, -1.1]), 2).tolist() == [0.25, 0.25]
    outside = np.array([[-5.0, 5.0], [1.0, -1.0]])
    assert joint_histogram(outside, 2).tolist() == [[0, 0.5], [0.5, 0]]
