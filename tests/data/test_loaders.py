"""Loaders: the same batches however they are resumed, shared out, or worked at."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.data.base import ImageDataset, UnreadableImage
from wasskit.data.loaders import Batch, EvalLoader, TrainLoader
from wasskit.data.registry import load_dataset
from wasskit.data.samplers import ClassBalancedSampler
from wasskit.data.transforms import Augment, PerImage, to_uint8
from wasskit.errors import RunFailed, UserError


def fake(count: int = 100) -> ImageDataset:
    return load_dataset("fake", "train").subset(range(count))


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(noise.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    paths = sorted(folder.iterdir())
    return ImageDataset("disk", "train", "ab", labels=torch.arange(20) % 2, paths=paths, image_size=16)


class Jitter:
    """An augmentation that does not say what it draws: brightness, then noise, as two views."""

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        factor = torch.rand(len(images), 1, 1, 1, generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return images * factor, images + noise


def random_crop(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    left, top = random.randrange(image.width - 15), int(torch.randint(image.height - 15, ()))
    return to_uint8(image.crop((left, top, left + 16, top + 16))), torch.rand(3)


def epoch(loader: TrainLoader, number: int = 1, start: int = 0) -> list[Batch]:
    batches = list(loader.batches(number, start))
    loader.close()
    return batches


def same(a: Batch, b: Batch) -> bool:
    pairs = [*zip(a.views, b.views, strict=True), (a.labels, b.labels), (a.indices, b.indices)]
    return all(torch.equal(x, y) for x, y in pairs)


def joined(*shares: Batch) -> Batch:
    views = tuple(torch.cat(view) for view in zip(*(share.views for share in shares), strict=True))
    return Batch(views, torch.cat([s.labels for s in shares]), torch.cat([s.indices for s in shares]))


def test_a_batch_holds_what_its_indices_say() -> None:
    data = fake()
    assert data.labels is not None
    seen = []
    for batch in TrainLoader(data, 32).batches(0):
        assert torch.equal(batch.labels, data.labels[batch.indices])
        assert torch.equal(batch.host_labels, batch.labels)
        assert batch.images.shape == (32, 3, 32, 32)
        assert batch.images.dtype == torch.float32
        seen += batch.indices.tolist()
    assert len(set(seen)) == len(seen) == 96


@pytest.mark.parametrize("augment", [None, Jitter()])
def test_resuming_gives_the_same_batches(augment: Augment | None) -> None:
    whole = epoch(TrainLoader(fake(), 8, augment, seed=3))
    torch.manual_seed(99)  # nothing depends on the global generator
    resumed = epoch(TrainLoader(fake(), 8, augment, seed=3), start=7)
    assert len(whole) == 12
    assert all(same(a, b) for a, b in zip(whole[7:], resumed, strict=True))
    assert not same(whole[7], epoch(TrainLoader(fake(), 8, augment, seed=4), start=7)[0])
    assert not same(whole[7], epoch(TrainLoader(fake(), 8, augment, seed=3), number=2, start=7)[0])


@pytest.mark.parametrize("augment", [None, Jitter()])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("views", [1, 2])
def test_ranks_share_the_batch_of_one(augment: Augment | None, ranks: int, views: int) -> None:
    whole = epoch(TrainLoader(fake(), 8, augment, views=views))
    loaders = [TrainLoader(fake(), 8, augment, views=views, rank=r, world_size=ranks) for r in range(ranks)]
    shares = [epoch(loader) for loader in loaders]
    assert len(whole[0].views) == views * (1 if augment is None else 2)
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert same(batch, joined(*parts))


def test_uneven_shares_are_together_the_batch() -> None:
    """Seven ranks: 8 is 2 + six ones, in the order of one rank and with its augmentation."""
    whole = epoch(TrainLoader(fake(), 8))
    loaders = [TrainLoader(fake(), 8, uneven=True, rank=r, world_size=7) for r in range(7)]
    for batch, *parts in zip(whole, *map(epoch, loaders), strict=True):
        assert sorted(map(len, parts)) == [1, 1, 1, 1, 1, 1, 2]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
    with pytest.raises(UserError, match="a batch of 8 cannot be shared by 9 processes"):
        TrainLoader(fake(), 8, uneven=True, rank=0, world_size=9)


@pytest.mark.parametrize("augment", [PerImage(random_crop), Jitter()])
def test_images_on_disk_do_not_depend_on_workers_ranks_or_resuming(
    on_disk: ImageDataset, augment: PerImage | Jitter
) -> None:
    plain = epoch(TrainLoader(on_disk, 4, augment, workers=0))
    assert len(plain) == 5
    assert not torch.equal(plain[0].views[0][0], plain[0].views[0][1])
    for batch, other in zip(plain, epoch(TrainLoader(on_disk, 4, augment, workers=2)), strict=True):
        assert same(batch, other)
    for batch, other in zip(plain[3:], epoch(TrainLoader(on_disk, 4, augment, workers=1), start=3), strict=True):
        assert same(batch, other)
    shares = [epoch(TrainLoader(on_disk, 4, augment, workers=0, rank=r, world_size=2)) for r in range(2)]
    for batch, parts in zip(plain, zip(*shares, strict=True), strict=True):
        assert same(batch, joined(*parts))


def test_workers_persist_and_an_epoch_may_be_left_midway(on_disk: ImageDataset) -> None:
    loader = TrainLoader(on_disk, 4, PerImage(random_crop), workers=1)
    before = children()
    leaving = loader.batches(0)
    next(leaving)
    mine = children() - before
    assert len(mine) == 1
    again = list(loader.batches(1))
    assert all(torch.equal(batch.host_labels, batch.indices % 2) for batch in again)
    assert children() - before == mine
    assert all(same(a, b) for a, b in zip(again, epoch(loader), strict=True))
    assert children() == before, "closed workers are gone"
    assert loader.wait_seconds > 0


def children() -> set[int]:
    import multiprocessing

    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


@pytest.fixture
def spawning() -> Iterator[None]:
    """Processes are not forked, as on macOS and Windows."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
def test_spawned_workers(on_disk: ImageDataset, spawning: None) -> None:
    loader = EvalLoader(on_disk, 8, workers=1)
    batches = list(loader)
    loader.close()
    plain = list(EvalLoader(on_disk, 8, workers=0))
    assert all(same(a, b) for a, b in zip(batches, plain, strict=True))


def test_a_worker_that_dies_ends_the_run_in_a_sentence(on_disk: ImageDataset) -> None:
    loader = TrainLoader(on_disk, 4, PerImage(die), workers=1)
    with pytest.raises(RunFailed, match="data loading process died"):
        list(loader.batches(0))
    assert issubclass(RunFailed, Exception)


@pytest.mark.slow
def test_a_loader_that_is_dropped_leaves_the_next_alone(on_disk: ImageDataset) -> None:
    """Its workers are ended once, by this process, and neither by those of the next nor under it."""
    before = children()
    for _ in range(6):
        loader = TrainLoader(on_disk, 2, workers=2)
        batches = loader.batches(0)
        assert len(next(batches)) == 2
        vars(loader)["itself"] = loader  # only the collector finds it
    del loader, batches
    gc.collect()
    assert children() == before


def die(image: Image.Image) -> torch.Tensor:
    os._exit(3)


@pytest.mark.slow
def test_a_program_ends_with_live_workers(on_disk: ImageDataset) -> None:
    assert on_disk.paths is not None
    code = (
        "import sys, torch\n"
        "from wasskit.data.base import ImageDataset\n"
        "from wasskit.data.loaders import EvalLoader\n"
        "data = ImageDataset('x', 'train', '', paths=sys.argv[1:], image_size=16)\n"
        "loader = EvalLoader(data, 2, workers=1)\n"
        "batches = iter(loader); next(batches); print('left')\n"
    )
    command = [sys.executable, "-c", code, *map(str, on_disk.paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "left\n"
    assert done.stderr == ""


@pytest.mark.slow
def test_a_program_ends_when_workers_miss_their_end(on_disk: ImageDataset) -> None:
    """The loader is gone, and its workers wait for work: they hear no SIGTERM, and the program would wait for them."""
    assert on_disk.paths is not None
    program = (
        "import gc, sys\n"
        "from wasskit.data.base import ImageDataset\n"
        "from wasskit.data.loaders import TrainLoader\n"
        "data = ImageDataset('x', 'train', '', paths=sys.argv[1:], image_size=16)\n"
        "loader = TrainLoader(data, 4, workers=1); next(loader.batches(0))\n"
        "workers = next(v for v in vars(loader).values() if hasattr(v, 'loader'))\n"
        "workers.loader._iterator._shutdown = True\n"
        "del workers, loader; gc.collect(); print('done')"
    )
    command = [sys.executable, "-c", program, *map(str, on_disk.paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "done\n"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no POSIX signals")
def test_workers_outlive_a_signal_to_the_whole_group(on_disk: ImageDataset) -> None:
    loader = TrainLoader(on_disk, 2, PerImage(random_crop), workers=1)
    before = children()
    batches = loader.batches(0)
    next(batches)
    (worker,) = children() - before
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker, number)
    time.sleep(0.2)
    assert len(list(batches)) == 9
    loader.close()
    assert children() == before


def test_an_unreadable_image_is_named_by_the_loader(on_disk: ImageDataset, tmp_path: Path) -> None:
    assert on_disk.paths is not None
    (tmp_path / "torn.png").write_bytes(on_disk.paths[0].read_bytes()[:500])
    data = ImageDataset("x", "train", "", paths=[*on_disk.paths[:5], tmp_path / "torn.png"], image_size=16)
    for workers in (0, 1):
        with pytest.raises(UnreadableImage, match=r"torn\.png.*--corrupt skip"):
            epoch(TrainLoader(data, 3, workers=workers))


def test_the_global_generators_are_left_alone(on_disk: ImageDataset) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for workers in (0, 1):
        epoch(TrainLoader(on_disk, 4, workers=workers))
    epoch(TrainLoader(fake(), 8))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_evaluation_sees_each_image_once_and_in_order(on_disk: ImageDataset, ranks: int, kind: str) -> None:
    data = on_disk if kind == "disk" else fake(20)
    loaders = [EvalLoader(data, 3, workers=0, rank=r, world_size=ranks) for r in range(ranks)]
    batches = [list(loader) for loader in loaders]
    assert [len(b) for b in batches] == [len(loader) for loader in loaders]
    seen = [int(i) for part in batches for batch in part for i in batch.indices]
    assert seen == list(range(20))
    whole = torch.cat([batch.images for batch in EvalLoader(data, 20, workers=0)])
    assert torch.equal(whole, torch.cat([batch.images for part in batches for batch in part]))


def test_more_ranks_than_images() -> None:
    loaders = [EvalLoader(fake(2), 4, rank=r, world_size=5) for r in range(5)]
    assert sum(len(batch) for loader in loaders for batch in loader) == 2


def test_the_last_batch(on_disk: ImageDataset) -> None:
    assert [len(b) for b in epoch(TrainLoader(fake(21), 8))] == [8, 8]
    assert [len(b) for b in epoch(TrainLoader(fake(21), 8, drop_last=False))] == [8, 8, 5]
    halves = [TrainLoader(fake(21), 8, drop_last=False, rank=r, world_size=2) for r in range(2)]
    assert [[len(b) for b in epoch(loader)] for loader in halves] == [[4, 4, 2]] * 2
    alone = TrainLoader(fake(17), 8, drop_last=False, rank=0, world_size=2)
    assert [len(b) for b in epoch(alone)] == [4, 4], "one image cannot be shared by two ranks"
    assert alone.steps_per_epoch == 2


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (101, {}, "100 images, fewer than one batch of 101"),
        (0, {}, "batch"),
        (9, {"rank": 0, "world_size": 2}, "multiple of 2"),
        (8, {"views": 0}, "views"),
    ],
)
def test_impossible_batches(batch_size: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainLoader(fake(), batch_size, **options)  # type: ignore[arg-type]


def test_balanced_batches_through_the_loader() -> None:
    data = fake()
    loader = TrainLoader(data, 12, sampler=ClassBalancedSampler(data.labels, 12, 3, seed=0))
    for batch in epoch(loader):
        assert torch.bincount(batch.labels).sort().values[-4:].tolist() == [3] * 4


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_balanced_batches(ranks: int) -> None:
    data = fake()

    def batches(rank: int, world_size: int) -> list[Batch]:
        sampler = ClassBalancedSampler(data.labels, 12, 4, seed=2)
        return epoch(TrainLoader(data, 12, sampler=sampler, rank=rank, world_size=world_size))

    whole = batches(0, 1)
    for batch, *parts in zip(whole, *(batches(rank, ranks) for rank in range(ranks)), strict=True):
        assert same(batch, joined(*parts))
        shares = [set(part.indices.tolist()) for part in parts]
        assert sum(map(len, shares)) == len(set().union(*shares)) == 12, "no image at two ranks"


def test_unlabelled_sets_give_minus_one() -> None:
    data = replace(fake(), labels=None)
    batch = next(TrainLoader(data, 4).batches(0))
    assert batch.labels.tolist() == [-1] * 4


def test_several_views_are_no_single_image() -> None:
    batch = next(TrainLoader(fake(), 4, views=2).batches(0))
    assert not torch.equal(*batch.views)
    with pytest.raises(ValueError, match="2 views"):
        _ = batch.images


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(on_disk: ImageDataset) -> None:
    for data in (fake(), on_disk):
        first = epoch(TrainLoader(data, 4, device="cuda", seed=1))
        again = epoch(TrainLoader(data, 4, device="cuda", seed=1), start=2)
        assert first[0].images.device.type == first[0].labels.device.type == "cuda"
        assert all(same(a, b) for a, b in zip(first[2:], again, strict=True))
        whole = torch.cat([batch.images.cpu() for batch in EvalLoader(data, 7, device="cuda")])
        assert torch.allclose(whole, torch.cat([batch.images for batch in EvalLoader(data, 7)]), atol=1e-5)
