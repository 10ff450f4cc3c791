"""Features in the order of the data set, in memory and on disk."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wasskit.errors import RunFailed, UserError
from wasskit.evaluation import embedding
from wasskit.evaluation.embedding import evaluating, extract_features, write_embeddings


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass
class Loader:
    """Batches of the given samples, in the given order."""

    images: Tensor
    order: list[int]
    batch_size: int = 4

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.order), self.batch_size):
            rows = torch.tensor(self.order[start : start + self.batch_size])
            yield Batch(self.images[rows], 10 * rows, rows)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Flatten())


IMAGES = torch.randn(11, 3, 5, 5, generator=torch.Generator().manual_seed(0))
SHUFFLED = [3, 4, 5, 0, 10, 9, 1, 2, 8, 7, 6]


def test_features_come_in_the_order_of_the_data_set() -> None:
    network = encoder()
    found = extract_features(network, Loader(IMAGES, SHUFFLED))
    by_method = extract_features(network.forward, Loader(IMAGES, SHUFFLED))
    assert torch.equal(by_method.features, found.features)
    assert network.training
    assert torch.equal(found.indices, torch.arange(11))
    assert torch.equal(found.labels, 10 * torch.arange(11))
    torch.testing.assert_close(found.features, network.eval()(IMAGES).detach())
    assert not found.features.requires_grad


class Memory(TorchDispatchMode):
    """The most bytes that tensors made inside have held at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.held = {key: entry for key, entry in self.held.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return made


def test_features_fill_one_buffer() -> None:
    """The bank, and of this batch and the one before the images, those laid out for convolutions, and the features:
    6 / 32 banks; 2 % for labels and indices."""

    class Sized(Loader):
        @property
        def num_samples(self) -> int:
            return len(self.order)

    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with Memory() as memory:
        found = extract_features(lambda x: 2 * x.flatten(1), Sized(images, list(range(256)), 8))
    assert torch.equal(found.features, 2 * images.flatten(1))
    bank = found.features.numel() * found.features.element_size()
    assert memory.peak < bank * (1 + 6 / 32 + 0.02)


def test_a_loader_of_unknown_length_fills_a_growing_buffer() -> None:
    for order in (list(range(11)), SHUFFLED):
        found = extract_features(lambda x: x.flatten(1), Loader(IMAGES, order, 3))
        assert torch.equal(found.features, IMAGES.flatten(1))
        assert torch.equal(found.labels, 10 * torch.arange(11))


def test_bf16_is_close_and_returned_as_float32() -> None:
    exact = extract_features(encoder(), Loader(IMAGES, SHUFFLED)).features
    rough = extract_features(encoder(), Loader(IMAGES, SHUFFLED), precision="bf16").features
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.05


def test_evaluating_restores_each_modules_own_mode() -> None:
    network = encoder()
    network.get_submodule("1").eval()
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in network.children()] == [True, False, True, True]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embeddings_on_disk_with_a_table(tmp_path: Path, dtype: str) -> None:
    names = [f"a folder/bild {i},é.png" for i in range(11)]
    labels = torch.tensor([0, 1, -1, 0, 0, 0, 0, 0, 0, 0, 1])
    array, table, _ = write_embeddings(
        tmp_path / "out" / "vectors",
        encoder(),
        Loader(IMAGES, SHUFFLED),
        names=names,
        labels=labels,
        classes=("cat", "dog"),
        dtype=dtype,  # type: ignore[arg-type]
    )
    vectors = np.load(array, mmap_mode="r")
    expected = extract_features(encoder(), Loader(IMAGES, SHUFFLED)).features
    assert vectors.dtype == dtype
    np.testing.assert_array_equal(vectors, expected.numpy().astype(dtype))
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "path", "label"]
    assert rows[3] == ["2", names[2], ""]
    assert [row[2] for row in rows[1:4]] == ["cat", "dog", ""]
    assert len(rows) == 12
    assert sorted(file.name for file in array.parent.iterdir()) == ["vectors.csv", "vectors.npy"]


def test_nothing_is_left_of_embeddings_that_failed(tmp_path: Path) -> None:
    names = [str(i) for i in range(11)]
    with pytest.raises(RunFailed, match="10 embeddings were computed for 11 images"):
        write_embeddings(tmp_path / "a.npy", encoder(), Loader(IMAGES, SHUFFLED[:-1]), names=names)
    with pytest.raises(UserError, match="no images to embed"):
        write_embeddings(tmp_path / "a.npy", encoder(), Loader(IMAGES, []), names=[])
    with pytest.raises(UserError, match="no images to embed"):
        extract_features(encoder(), Loader(IMAGES, []))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written to"):
        write_embeddings(tmp_path / "file" / "a.npy", encoder(), Loader(IMAGES, SHUFFLED), names=names)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedding, "_write_rows", full)
    names = [str(i) for i in range(11)]
    with pytest.raises(UserError, match=r"Cannot write .*a\.npy: No space left"):
        write_embeddings(tmp_path / "a.npy", encoder(), Loader(IMAGES, SHUFFLED), names=names)
    assert not list(tmp_path.iterdir())


def test_the_loaders_batches_serve() -> None:
    from wasskit.data.base import ImageDataset
    from wasskit.data.loaders import EvalLoader

    pixels = torch.randint(0, 256, (11, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = ImageDataset("made up", "test", ("a", "b"), images=pixels, labels=torch.arange(11) % 2)
    loader = EvalLoader(dataset, 4, lambda images: images.float() / 255)
    found = extract_features(nn.Flatten(), loader)
    torch.testing.assert_close(found.features, pixels.flatten(1) / 255)
    assert torch.equal(found.labels, torch.arange(11) % 2)
