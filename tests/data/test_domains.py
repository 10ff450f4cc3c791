"""The digit domains, made and real."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.data.domains import SIDE, load_domain
from wasskit.data.formats.idx import read_idx
from wasskit.data.formats.libsvm import LARGEST_TEXT, read_libsvm
from wasskit.errors import UserError


def test_digit_halves_differ_in_look_and_share_labels() -> None:
    first, second = load_domain("digits-a"), load_domain("digits-b")
    for domain in (first, second):
        assert domain.train_images.shape[1:] == (1, SIDE, SIDE)
        assert len(domain.train_images) == len(domain.train_labels)
        assert domain.train_images.min() >= 0
        assert domain.train_images.max() <= 1
        assert set(domain.test_labels.tolist()) == set(range(10))
    assert second.train_images.mean() < 0.7 * first.train_images.mean()


def test_libsvm_rows_may_be_sparse(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bz2"
    path.write_bytes(bz2.compress(b"3 1:-1.0 4:0.5 \n10 2:0.25\n"))
    values, labels = read_libsvm(path, 4)
    assert labels.tolist() == [2, 9]
    assert values.tolist() == [[-1.0, 0.0, 0.0, 0.5], [0.0, 0.25, 0.0, 0.0]]
    path.write_bytes(bz2.compress(b"3 1:-1.0 4\n"))
    with pytest.raises(UserError, match=r"tiny\.bz2 is not a readable .*a row is not a label"):
        read_libsvm(path, 4)


def test_idx_files(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    content = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content)[:20])
    with pytest.raises(UserError, match="damaged"):
        read_idx(tmp_path / "b.gz")


@pytest.mark.slow
@pytest.mark.parametrize("piece", [b"\r", b"1 ", b"1:1 ", b"0"], ids=["returns", "numbers", "pairs", "digits"])
def test_small_files_of_long_rows_are_refused_in_bounded_memory(tmp_path: Path, piece: bytes) -> None:
    """As many bytes as are unpacked at most. A list entry for each of them would take eight times as many and more."""
    path = tmp_path / "bomb.bz2"
    path.write_bytes(bz2.compress(piece * (LARGEST_TEXT // len(piece)), 1))
    tracemalloc.start()  # numpy's arrays are counted, too
    try:
        with pytest.raises(UserError, match=r"bomb\.bz2 is not a readable"):
            read_libsvm(path, 256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The text, its copy without colons, a number of 8 bytes for two bytes of it, and what that array grows by: ten
    # times the text, and the interpreter's own objects.
    assert peak < 10 * LARGEST_TEXT + (1 << 20)


def test_packed_files_that_unpack_to_more_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.bz2").write_bytes(bz2.compress(b"\0" * (LARGEST_TEXT + 1), 1))
    with pytest.raises(UserError, match=r"it unpacks to more than 33,554,432 bytes"):
        read_libsvm(tmp_path / "bomb.bz2", 256)
    header = bytes([0, 0, 8, 3]) + (2).to_bytes(4, "big") * 3
    path = tmp_path / "bomb.gz"
    for content, reason in (
        (header + b"\0" * (64 << 20), "announces 2 x 2 x 2 bytes, it holds more"),
        (header + b"\0" * 7, "announces 2 x 2 x 2 bytes, it holds 7"),
        (header[:4] + b"\xff" * 12, "more than the 268,435,456 of any such file"),
    ):
        path.write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=reason):
                read_idx(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 22  # the buffers of gzip
        finally:
            tracemalloc.stop()


def test_missing_domains_say_where_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the data set mnist is not in {tmp_path} .* expected MNIST/raw/train-images"):
        load_domain("mnist", tmp_path)
    with pytest.raises(UserError, match=f"the data set usps is not in {tmp_path} .* expected usps.bz2, usps.t.bz2"):
        load_domain("usps", tmp_path)
    with pytest.raises(UserError, match=r"no domain is called .* there are digits-a, digits-b, mnist, usps, cars, .*"):
        load_domain("svhnn", tmp_path)


@pytest.mark.slow
def test_real_domains(data_root: Path) -> None:
    usps = load_domain("usps", data_root)
    assert (len(usps.train_images), len(usps.test_images)) == (7291, 2007)
    assert torch.bincount(usps.train_labels).tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    mnist = load_domain("mnist", data_root)
    assert (len(mnist.train_images), len(mnist.test_images)) == (60000, 10000)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
