"""Discrete optimal transport of features, in parts and whole."""

from __future__ import annotations

import pytest
import torch

from wasskit.plugins.w2gn.experiments.domain import _beside_the_gaussian, discrete_map, nearest_labels


def test_discrete_transport_of_a_shift_finds_every_partner() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 3)
    order = torch.randperm(30)
    # A shift is optimal whatever its length: each point's partner is its own image.
    torch.testing.assert_close(discrete_map(x, (x + 5)[order], 0), x + 5)


def test_parts_cover_all_points_with_few_targets() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(50, 2), torch.randn(7, 2)
    mapped = discrete_map(x, y, 0, repeats=1, size=20)
    assert mapped.shape == x.shape
    # One repeat: every point is mapped to a target itself, to the bit.
    assert (mapped[:, None] == y).all(2).any(1).all()
    assert torch.equal(mapped, discrete_map(x, y, 0, repeats=1, size=20))


def test_nearest_labels() -> None:
    references = torch.tensor([[0.0], [10.0], [20.0]])
    queries = torch.tensor([[1.0], [19.0], [11.0], [-3.0]])
    labels = torch.tensor([4, 5, 6])
    assert nearest_labels(queries, references, labels).tolist() == [4, 6, 5, 4]
    # Far from the origin |x|^2 - 2 <x, y> + |y|^2 would keep no digit: 1e5 squared, times 6e-8, is 600.
    assert nearest_labels(queries + 1e5, references + 1e5, labels).tolist() == [4, 6, 5, 4]
    # Of equal references the first.
    assert nearest_labels(queries[:2], references[[2, 2, 0, 0]], torch.arange(4)).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("mapped", "images", "said"),
    [(87.7, 179, "differ by -2.20 points, less than by chance alone (6.7"), (91.0, 10_000, "better than"),
     (87.0, 10_000, "worse than the Gaussian map by 2.90 points")],
)  # fmt: skip
def test_the_map_is_held_against_the_gaussian_one(mapped: float, images: int, said: str) -> None:
    """Of 179 images, two standard errors of 90 % against 88 %: 2 sqrt((0.899 x 0.101 + 0.877 x 0.123) / 179)."""
    final = {"test/classifier_gaussian": 89.9, "test/classifier_mapped": mapped}
    assert said in _beside_the_gaussian(final, images)
