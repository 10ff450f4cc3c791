"""The digit domains, made and real."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.data.domains import SIDE, load_domain, read_idx, read_libsvm
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


def test_missing_domains_say_where_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MNIST is not in"):
        load_domain("mnist", tmp_path)
    with pytest.raises(UserError, match="USPS is not in"):
        load_domain("usps", tmp_path)
    with pytest.raises(UserError, match="no data set is called"):
        load_domain("svhnn", tmp_path)


@pytest.mark.slow
def test_real_domains(data_root: Path) -> None:
    usps = load_domain("usps", data_root)
    assert (len(usps.train_images), len(usps.test_images)) == (7291, 2007)
    assert torch.bincount(usps.train_labels).tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    mnist = load_domain("mnist", data_root)
    assert (len(mnist.train_images), len(mnist.test_images)) == (60000, 10000)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
