"""The law of a palette, and maps of colours as tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.data.photographs import map_pixels
from wasskit.plugins.w2gn.experiments.color import ColourTable, colour_measure


def darker(points: Tensor) -> Tensor:
    return 0.5 * points + 0.1


def test_table_equals_the_map_on_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 50, 3), dtype=np.uint8)
    calls = []

    def counted(points: Tensor) -> Tensor:
        calls.append(len(points))
        return darker(points)

    table = ColourTable(counted)
    expected = np.clip(np.rint(255 * (0.5 * pixels.astype(np.float32) / 255 + 0.1)), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(map_pixels(pixels, table), expected)
    assert sum(calls) == len(np.unique(pixels.reshape(-1, 3), axis=0))
    map_pixels(pixels, table)
    assert sum(calls) == len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_colour_measure_spreads_colours_over_a_grey_level() -> None:
    colours = torch.tensor([[10, 20, 30], [200, 100, 50]], dtype=torch.uint8)
    points = 255 * colour_measure(colours).draw(4000, 0)
    assert torch.equal(points.round()[:, 0].unique(), torch.tensor([10.0, 200.0]))
    assert float((points - points.round()).std()) == pytest.approx(12**-0.5, rel=0.05)
