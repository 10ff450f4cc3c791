"""Codes of embeddings, against numpy's and by the laws that define them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wasskit.evaluation.codes import (
    code_bytes,
    decode_binary,
    decode_int8,
    encode_binary,
    encode_int8,
    factors,
    int8_ranges,
)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 64])
def test_bits_are_those_of_numpy(dim: int) -> None:
    x = torch.randn(20, dim, generator=torch.Generator().manual_seed(0))
    packed = encode_binary(x)
    assert np.array_equal(packed.numpy(), np.packbits(x.numpy() > 0, axis=1))
    assert packed.shape[1] == code_bytes("binary", dim)
    assert torch.equal(decode_binary(packed, dim), torch.where(x > 0, 1.0, -1.0))


def test_inner_products_of_bits_count_those_that_differ() -> None:
    x = torch.randn(2, 33, generator=torch.Generator().manual_seed(1))
    signs = decode_binary(encode_binary(x), 33)
    assert float(signs[0] @ signs[1]) == 33 - 2 * int(((x[0] > 0) != (x[1] > 0)).sum())


def test_a_byte_is_off_by_half_a_step_at_most() -> None:
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    low, step = int8_ranges(x)
    codes = encode_int8(x, low, step)
    assert codes.dtype == torch.int8
    assert codes.amin(0).tolist() == [-128] * 5
    assert codes.amax(0).tolist() == [127] * 5
    # Half a step and the rounding of low + 255 step.
    assert bool(((decode_int8(codes, low, step) - x).abs() <= step / 2 + 4 * 2**-52 * x.abs().amax(0)).all())


def test_values_beyond_the_range_take_the_outermost_level() -> None:
    low, step = torch.tensor([0.0]), torch.tensor([1.0])
    assert encode_int8(torch.tensor([[-5.0], [300.0]]), low, step).flatten().tolist() == [-128, 127]


def test_a_constant_column_is_kept() -> None:
    x = torch.tensor([[2.5, 0.0], [2.5, 1.0]])
    low, step = int8_ranges(x)
    assert decode_int8(encode_int8(x, low, step), low, step)[:, 0].tolist() == [2.5, 2.5]


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(ValueError, match="float32, int8, binary, not 'int4'"):
        factors(torch.ones(2, 2), "int4")  # type: ignore[arg-type]
