"""A data set is declared in one place, and every command knows it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wasskit.data.base import ImageDataset
from wasskit.data.card import CARDS, DatasetCard, Request, register
from wasskit.data.domains import load_domain
from wasskit.data.metric_sets import load_metric_splits
from wasskit.data.registry import load_dataset
from wasskit.data.sets.mnist import FILES as MNIST_FILES
from wasskit.errors import UserError

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def stripes() -> Iterator[str]:
    """A set of 8 x 8 grey images, one stripe per class."""

    @register(
        DatasetCard(
            "stripes",
            "one stripe per class, 8x8",
            ("train", "test"),
            num_classes=8,
            image_size=8,
            channels=1,
            source="generated",
            mean=(0.125,),
            std=(0.331,),
        )
    )
    def load(request: Request) -> ImageDataset:
        count = {"train": 128, "test": 64}[request.split]
        labels = torch.arange(count) % 8
        images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
        images[torch.arange(count), 0, labels] = 255
        return request.dataset(classes=[f"row {i}" for i in range(8)], labels=labels, images=images)

    yield "stripes"
    del CARDS["stripes"]


def test_a_declared_set_has_what_every_set_has(stripes: str) -> None:
    train = load_dataset(stripes, "train", validation=0.25)
    assert (len(train), train.channels, train.image_size, train.mean) == (96, 1, 8, (0.125,))
    assert len(load_dataset(stripes, "val", validation=0.25, image_size=16)) == 32
    splits = load_metric_splits(stripes)
    assert (splits.train.classes[1], splits.test.classes[0]) == ("row 2", "row 1")
    assert load_domain(stripes).test_images.shape == (64, 1, 28, 28)
    with pytest.raises(UserError, match="did you mean stripes"):
        load_dataset("strips", "train")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("mrl", "train", "--dims", "2,4", "--batch-size", "32"),
        ("ssl", "barlow", "--batch-size", "32"),
        ("metrix", "train", "--batch-size", "16", "--images-per-class", "4"),
    ],
    ids=lambda words: words[0],
)
def test_every_plugin_trains_on_a_declared_set(
    stripes: str, tmp_path: Path, run_cli: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    common = ("--dataset", stripes, "--epochs", "1", "--device", "cpu", "--run-dir", tmp_path / "run", "--json")
    done = run_cli(*arguments, *common)
    assert done.exit_code == 0, done.stderr
    assert stripes in (tmp_path / "run" / "config.toml").read_text()
    listed = json.loads(run_cli("info", "--json").stdout)["datasets"]
    assert listed[stripes] == {"found": True, "path": None}


def test_a_set_never_changes(stripes: str) -> None:
    train = load_dataset(stripes, "train")
    with pytest.raises(AttributeError, match="cannot assign"):
        train.split = "test"  # type: ignore[misc]
    before = (train.mean, train.notes, len(train))
    seen = train.prepared_as([0.5], [0.25], margin=False)
    assert (seen.mean, seen.std, seen.margin) == ((0.5,), (0.25,), False)
    assert seen.images is train.images
    assert (train.mean, train.notes, len(train)) == before


# --- MNIST, Fashion-MNIST, USPS ---------------------------------------------------------------------------------------


def write_idx(folder: Path, *, packed: bool, count: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(count * 784, dtype=np.uint8).reshape(count, 28, 28)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(count, dtype=np.uint8) % 10)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            content = head + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist/MNIST/raw"),
        ("mnist", "mnist"),
        ("mnist", "."),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist/FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_a_set_in_every_layout(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    write_idx(tmp_path / "root" / folder, packed=packed)
    train = load_dataset(name, "train", root=tmp_path / "root")
    assert train.images is not None
    assert train.images.flatten().tolist() == [i % 256 for i in range(20 * 784)]
    assert train.filled_labels().tolist() == [i % 10 for i in range(20)]
    assert train.notes == (f"{name}/train: 20 of 60,000 images",)


def test_folders_that_are_called_as_the_files_of_mnist_are_named(tmp_path: Path) -> None:
    """As some archives unpack: each file in a folder of its name."""
    for file in MNIST_FILES:
        (tmp_path / file / file).mkdir(parents=True)
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is not a readable idx file of bytes: it is a folder"):
        load_dataset("mnist", "test", root=tmp_path)


def test_files_of_mnist_are_not_taken_for_those_of_fashion(tmp_path: Path) -> None:
    write_idx(tmp_path / "raw", packed=True)
    assert len(load_dataset("mnist", "test", root=tmp_path / "raw")) == 20
    with pytest.raises(UserError, match="the data set fashion-mnist is not in"):
        load_dataset("fashion-mnist", "test", root=tmp_path / "raw")


def test_idx_files_that_do_not_fit_together(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=False)
    file = tmp_path / "t10k-labels-idx1-ubyte"
    file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    said = r"test files of mnist in .* do not fit together: images \(20, 28, 28\), labels \(3,\)"
    with pytest.raises(UserError, match=said):
        load_dataset("mnist", "test", root=tmp_path)
    file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 20, *range(1, 21)]))
    with pytest.raises(UserError, match="labels from 0 to 9"):
        load_dataset("mnist", "test", root=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "usps"])
def test_real_digits(data_root: Path, name: str) -> None:
    for split in ("train", "test"):
        part = load_dataset(name, split, root=data_root)
        assert part.notes == ()
        assert set(part.filled_labels().tolist()) == set(range(10))
        if split == "train":
            assert part.images is not None
            scaled = part.images.double() / 255
            assert abs(float(scaled.mean()) - part.mean[0]) < 1e-4
            assert abs(float(scaled.std()) - part.std[0]) < 1e-4
