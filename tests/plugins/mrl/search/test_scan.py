"""Codes of prefixes and the scan over them, against float64 and sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from wasskit.evaluation.codes import decode_int8
from wasskit.plugins.mrl.search import scan
from wasskit.plugins.mrl.search.codes import PrefixCode
from wasskit.plugins.mrl.search.scan import Best, products


def draw(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Vectors about a mean, with a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) / torch.arange(1, width + 1) ** 0.5 + 0.3


def expected(scores: NDArray[Any], size: int) -> NDArray[np.int64]:
    """The first ``size`` places of each row by falling score, then by place."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :size]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("tile", [32, 96, 100, 1000])
def test_the_best_of_all_tiles_are_kept_in_order(whole: bool, tile: int) -> None:
    """Of 21 distinct scores among 1,000, nearly all of those that are kept are as good as others."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-10, 11, (7, 1000)).astype(np.float32)
    best = Best(7, 60, whole_numbers=whole)
    for start in range(0, 1000, tile):
        part = torch.from_numpy(scores[:, start : start + tile].copy())
        best.add(part.int() if whole and tile == 96 else part, start)
    np.testing.assert_array_equal(best.rows().numpy(), expected(scores, 60))


@pytest.mark.parametrize("order", ["falling", "rising"])
def test_sorted_rows_are_the_worst_case_and_no_other(order: str) -> None:
    scores = np.tile(np.arange(4096, dtype=np.float32), (3, 1))[:, :: -1 if order == "falling" else 1].copy()
    best = Best(3, 8, whole_numbers=False)
    for start in range(0, 4096, 256):
        best.add(torch.from_numpy(scores[:, start : start + 256].copy()), start)
    np.testing.assert_array_equal(best.rows().numpy(), expected(scores, 8))


@pytest.mark.parametrize("whole", [True, False])
def test_absent_rows_are_never_found(whole: bool) -> None:
    scores = np.random.default_rng(1).integers(-100, 100, (4, 300)).astype(np.float32)
    absent = np.arange(0, 300, 3)
    best = Best(4, 250, whole_numbers=whole)
    for start in range(0, 300, 100):
        inside = absent[(absent >= start) & (absent < start + 100)] - start
        best.add(torch.from_numpy(scores[:, start : start + 100].copy()), start, torch.from_numpy(inside))
    found = best.rows().numpy()
    live = np.setdiff1d(np.arange(300), absent)
    np.testing.assert_array_equal(found[:, :200], live[expected(scores[:, live], 200)])
    assert (found[:, 200:] == -1).all()


@pytest.mark.parametrize("dim", [1, 3, 64, 1032, 4096])
def test_products_of_bytes_are_exact_either_way(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are so small that no sum of products with bytes leaves the whole numbers that float32 holds."""
    code = PrefixCode("int8", dim, None, torch.zeros(dim), torch.rand(dim, generator=torch.Generator().manual_seed(0)))
    queries = torch.cat([draw(20, dim), torch.ones(1, dim), torch.zeros(1, dim), torch.eye(1, dim)])
    weights = code.weights(queries)
    assert weights.dtype == torch.int8
    assert int(weights.long().abs().sum(1).max()) * 128 <= 1 << 24
    tile = torch.randint(-128, 128, (96, dim), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    tile[0], tile[1] = -128, 127
    truth = weights.long() @ tile.long().T
    for bytes_ in (True, False):
        monkeypatch.setattr(scan, "has_byte_products", lambda bytes_=bytes_: bytes_)
        assert torch.equal(products(weights, tile).long(), truth)


def test_the_way_of_multiplying_is_tried_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instruction that saturates, or none at all, is not taken."""

    def saturating(weights: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
        return (weights.long() @ tile.long().T).clamp(-(1 << 15), (1 << 15) - 1)

    def missing(weights: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    for way in (saturating, missing):
        monkeypatch.setattr(scan, "_bytes_product", way)
        scan.has_byte_products.cache_clear()
        assert not scan.has_byte_products()
    scan.has_byte_products.cache_clear()


@pytest.mark.parametrize("axes", ["principal", "given"])
def test_estimates_from_bytes_are_as_good_as_their_steps(axes: str) -> None:
    """With steps s of the codes c of p and whole weights w of q s, scaled by t: q . p departs from w . c / t + constant
    by at most sum |q_j| s_j / 2 (codes of values within the range) + sum |c_j| / (2 t) (rounded weights)."""
    x, queries = draw(500, 40), draw(9, 40, 1)
    code = PrefixCode.learn(x, 16, "int8", axes)  # type: ignore[arg-type]
    p, q = code.prefixes(x).double(), code.prefixes(queries).double()
    stored = torch.from_numpy(code.encode(x))
    assert stored.dtype == torch.int8
    whole = (q * code.step).abs().amax(1, keepdim=True) / 127  # 1 / t: the largest weight is 127
    estimate = whole * products(code.weights(queries), code.tile(stored.numpy())).double()
    constant = (q * (code.low + 128 * code.step)).sum(1, keepdim=True)
    bound = (q.abs() * code.step / 2).sum(1, keepdim=True) + whole * stored.double().abs().sum(1) / 2
    # Codes and steps are computed in float32, of numbers up to 1: 16 coordinates of a few roundings each.
    assert ((estimate + constant - q @ p.T).abs() <= bound + 16 * 8 * 2**-24).all()
    # The bound is not idle: the estimates are far nearer to each other's truth than the cosines are spread.
    assert float(bound.max()) < 0.5 * float((q @ p.T).std())
    decoded = decode_int8(stored, code.low, code.step)
    assert float((decoded - p).abs().max()) <= float(code.step.max()) / 2 + 1e-6


def test_bits_rank_by_the_two_means_that_they_stand_for() -> None:
    """A bit says on which side of the mean a coordinate lies, at the mean distance from it."""
    x, queries = draw(400, 24), draw(5, 24, 1)
    code = PrefixCode.learn(x, 11, "binary")
    p, q = code.prefixes(x).double(), code.prefixes(queries).double()
    mean = p.mean(0)
    spread = (p - mean).abs().mean(0)
    decoded = mean + torch.where(p > mean, spread, -spread)
    stored = code.encode(x)
    assert (stored.dtype.name, stored.shape) == ("uint8", (400, 2))
    whole = (q * 2 * spread).abs().amax(1, keepdim=True) / 127
    estimate = whole * products(code.weights(queries), code.tile(stored)).double()
    constant = (q * (mean - spread)).sum(1, keepdim=True)
    # Each of the 11 weights is rounded by half a unit at most.
    assert ((estimate + constant - q @ decoded.T).abs() <= 11 * whole / 2 + 1e-6).all()


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_numbers_are_stored_as_they_are(kind: str) -> None:
    x = draw(50, 12)
    code = PrefixCode.learn(x, 5, kind, "given")  # type: ignore[arg-type]
    unit = F.normalize(x[:, :5].double(), dim=1)
    # Rounded to float32, then to 11 bits (float16) or not at all.
    bound = 2**-12 if kind == "float16" else 2**-22
    assert torch.allclose(torch.from_numpy(code.encode(x)).double(), unit, rtol=bound, atol=bound)
    assert torch.allclose(code.weights(x).double(), unit, rtol=2**-22, atol=2**-22)


def test_principal_axes_are_those_of_largest_inner_products() -> None:
    x = draw(300, 20)
    code = PrefixCode.learn(x, 4, "float32")
    unit = F.normalize(x.double(), dim=1)
    values, vectors = np.linalg.eigh((unit.T @ unit).numpy())
    assert code.axes is not None
    overlap = code.axes.double().numpy() @ vectors[:, ::-1][:, :4]
    # Eigenvectors up to their sign; computed in float64 and kept in float32.
    np.testing.assert_allclose(np.abs(overlap), np.eye(4), atol=1e-5)
    assert (np.diff(values) > 1e-4).all(), "distinct, or the axes would be any of a plane"
