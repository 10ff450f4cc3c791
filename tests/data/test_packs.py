"""Packs: the pixels of the image files, finished after a kill, refused when damaged, read by every loader."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.data import packing
from wasskit.data.base import ImageDataset
from wasskit.data.folder import folder_splits, load_folder
from wasskit.data.formats.pack import CHUNK, PackHeader, read_pack
from wasskit.data.loaders import EvalLoader, TrainLoader
from wasskit.data.metric_sets import load_metric_splits
from wasskit.data.packed import PackedImages, ahead
from wasskit.data.packing import pack_split
from wasskit.data.registry import load_dataset
from wasskit.data.transforms import PerImage, ResizeCrop, to_uint8, with_margin
from wasskit.data.views import ViewDistribution, random_views
from wasskit.errors import UserError
from wasskit.system.locks import held

pytestmark = pytest.mark.usefixtures("undrawn")

COUNT = 2 * CHUNK + 22


class Pictures:
    """Images of several shapes; the one numbered ``stop`` is where the power fails."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def __call__(self, index: int) -> Image.Image:
        if index == self.stop:
            raise KeyboardInterrupt
        noise = np.random.default_rng(index)
        return Image.fromarray(noise.integers(0, 255, (12 + index % 5, 20, 3), dtype=np.uint8))


def pictures(stop: int | None = None, count: int = COUNT) -> ImageDataset:
    labels = torch.arange(count) % 3 - 1
    return ImageDataset("toy", "train", ("a", "b"), labels=labels, reader=Pictures(stop), size=count, image_size=8)


def packed(folder: Path, split: str = "train") -> ImageDataset:
    return load_dataset("packed", split, root=folder)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    pack_split(pictures(), folder, side=9, workers=0)
    return folder


def test_a_pack_holds_the_images_and_the_facts(pack: Path) -> None:
    source, found = pictures(), packed(pack)
    assert len(found) == COUNT
    assert found.labels is not None
    assert torch.equal(found.labels, source.filled_labels())
    assert (found.classes, found.image_size, found.channels) == (("a", "b"), 8, 3)
    assert (found.mean, found.std) == (source.mean, source.std)
    assert not found.in_memory
    assert found.in_batches
    fit = ResizeCrop(9)
    for index in (0, 63, 64, COUNT - 1):
        assert torch.equal(to_uint8(found.image(index)), fit(source.image(index)))


def test_evaluation_sees_the_pixels_of_the_files(tmp_path: Path) -> None:
    """At the size of the pack's own, every pixel is the one that decoding, resizing and cropping would give. (As for
    224 pixels in 256, half of the margin is even: so the two roundings of the middle agree.)"""
    source = replace(pictures(count=40), image_size=28)
    pack_split(source, tmp_path, side=with_margin(28), workers=0)
    files, stored = EvalLoader(source, 25, workers=0), EvalLoader(packed(tmp_path), 25, workers=0)
    for a, b in zip(files, stored, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)


def test_another_size_is_resampled(pack: Path) -> None:
    """Resized twice: from the files, to 9 and to 8 pixels, here, and by torch in place of PIL: within a grey level."""
    small = packed(pack).resized(7)
    batch = next(iter(EvalLoader(small, 4, workers=0))).images
    pixels = torch.stack([ResizeCrop(7, 8)(packed(pack).image(i)) for i in range(4)]).float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (small.mean, small.std))
    assert ((batch * std + mean) - pixels).abs().max() < 1.01 / 255
    with pytest.raises(UserError, match="is packed at 9 pixels, and 10 are asked for"):
        packed(pack).resized(10)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_do_not_depend_on_threads_ranks_or_resuming(pack: Path, threads: int) -> None:
    data = packed(pack)
    augment = random_views(data, ViewDistribution(), ViewDistribution())
    plain = list(TrainLoader(data, 8, augment, workers=0, seed=1).batches(1))
    held_in_memory = replace(data, packed=None, images=data.packed.rows(torch.arange(COUNT)))  # type: ignore[union-attr]
    memory = TrainLoader(held_in_memory, 8, augment, seed=1).batches(1)
    resumed = TrainLoader(data, 8, augment, workers=threads, seed=1).batches(1, start=3)
    for a, b in zip(plain, memory, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    for a, b in zip(plain[3:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    ranks = [
        list(TrainLoader(data, 8, augment, workers=threads, seed=1, rank=r, world_size=2).batches(1)) for r in range(2)
    ]
    for whole, *parts in zip(plain, *ranks, strict=True):
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
        for i, view in enumerate(whole.views):
            joined = torch.cat([part.views[i] for part in parts])
            # Products of batches of another size, of about 20 terms in [0, 1], after division by std > 0.2.
            torch.testing.assert_close(joined, view, rtol=0, atol=100 * torch.finfo(torch.float32).eps)


def test_a_loader_left_midway_leaves_no_thread(pack: Path) -> None:
    import threading

    before = threading.active_count()
    batches = TrainLoader(packed(pack), 4, workers=2).batches(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_reaches_who_asks_for_what_failed() -> None:
    def inverse(x: int) -> float:
        return 1 / x

    results = ahead(inverse, [1, 2, 0, 4], 2)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_one_image_at_a_time_is_worked_at_in_processes(pack: Path) -> None:
    """A per-image pipeline still runs; the processes map the file themselves."""
    loader = EvalLoader(packed(pack).subset(range(6)), 3, PerImage(to_uint8), workers=1)
    seen = torch.cat([batch.images for batch in loader])
    loader.close()
    assert torch.equal(seen, packed(pack).packed.rows(torch.arange(6)))  # type: ignore[union-attr]


def test_parts_and_copies_carry_no_pixels(pack: Path) -> None:
    data = packed(pack)
    stored = data.packed
    assert stored is not None
    part = data.subset([5, 3, 140, 5])
    assert part.packed is not None
    assert torch.equal(part.packed.rows(torch.tensor([0, 2, 3])), stored.rows(torch.tensor([5, 140, 5])))
    again = pickle.loads(pickle.dumps(part.subset([1, 2])))
    assert torch.equal(again.packed.rows(torch.arange(2)), stored.rows(torch.tensor([3, 140])))
    assert len(pickle.dumps(part)) < COUNT * 9 * 9 * 3 / 2


def test_several_packs_are_one_set(tmp_path: Path) -> None:
    parts = {split: replace(pictures(count=n), split=split) for split, n in (("train", 70), ("val", 5), ("test", 9))}
    for part in parts.values():
        pack_split(part, tmp_path, side=9, workers=0)
    everything = packed(tmp_path, "all")
    assert len(everything) == 84
    index = torch.tensor([83, 0, 69, 70, 74, 75, 3])
    rows = everything.packed.rows(index)  # type: ignore[union-attr]
    fit, offsets = ResizeCrop(9), {"train": 0, "val": 70, "test": 75}
    for row, place in zip(rows, index.tolist(), strict=True):
        split = max((name for name in offsets if offsets[name] <= place), key=offsets.__getitem__)
        assert torch.equal(row, fit(parts[split].image(place - offsets[split])))
    assert torch.equal(everything.filled_labels(), torch.cat([part.filled_labels() for part in parts.values()]))
    (tmp_path / "test.pack").unlink()
    assert len(packed(tmp_path, "test")) == 5, "the validation part is the test part where there is no other"
    with pytest.raises(UserError, match="holds no pack of the split 'query': it has train, val"):
        packed(tmp_path, "query")
    with pytest.raises(ValueError, match="of one size"):
        PackedImages([])


def test_no_pack(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no pack in .*: make one by `wasskit data pack SOURCE"):
        packed(tmp_path)


# ---- making ----


def test_what_a_kill_leaves_is_finished(tmp_path: Path, pack: Path) -> None:
    whole = (pack / "train.pack").read_bytes()
    for stop in (0, 63, 64, 130, COUNT - 1):
        with pytest.raises(KeyboardInterrupt):
            pack_split(pictures(stop), tmp_path, side=9, workers=0)
        assert not (tmp_path / "train.pack").exists()
        said: list[str] = []
        done = pack_split(pictures(), tmp_path, side=9, workers=0, say=said.append)
        assert (done.kept, done.made) == (stop // CHUNK * CHUNK, COUNT - stop // CHUNK * CHUNK)
        assert (f"{done.kept} of {COUNT} images are packed already" in said[0]) == (done.kept > 0)
        assert done.path.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == [".pack.lock", "train.pack"]
        done.path.unlink()


def test_images_before_the_stop_are_not_decoded_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_split(pictures(100), tmp_path, side=9, workers=0)
    with pytest.raises(KeyboardInterrupt):  # not at image 10: that is packed
        pack_split(replace(pictures(), reader=Both(10, 140)), tmp_path, side=9, workers=0)
    done = pack_split(pictures(), tmp_path, side=9, workers=0)
    assert done.kept == 2 * CHUNK


class Both(Pictures):
    """Stops at either of two images."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)
        self.second = second

    def __call__(self, index: int) -> Image.Image:
        if index == self.second:
            raise KeyboardInterrupt
        return super().__call__(index)


def test_torn_chunks_are_made_again(tmp_path: Path, pack: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_split(pictures(COUNT - 1), tmp_path, side=9, workers=0)
    draft = tmp_path / ".train.pack.partial"
    start = read_pack(draft).pixels_at
    with draft.open("r+b") as file:
        file.seek(start + CHUNK * 243 + 5)
        file.write(b"torn")
    done = pack_split(pictures(), tmp_path, side=9, workers=0)
    assert done.kept == CHUNK
    assert done.path.read_bytes() == (pack / "train.pack").read_bytes()
    # A draft without its beginning is begun anew.
    done.path.unlink()
    draft.write_bytes(b"\0" * 1000)
    assert pack_split(pictures(), tmp_path, side=9, workers=0).kept == 0


def test_a_pack_is_not_mixed_with_another(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_split(pictures(100), tmp_path, side=9, workers=0)
    with pytest.raises(UserError, match="was begun from other images or settings"):
        pack_split(pictures(), tmp_path, side=10, workers=0)
    done = pack_split(pictures(), tmp_path, side=10, workers=0, overwrite=True)
    assert (done.kept, read_pack(done.path).header.side) == (0, 10)
    again = pack_split(pictures(0), tmp_path, side=10, workers=0)
    assert (again.kept, again.made) == (COUNT, 0)
    relabelled = replace(pictures(), labels=torch.zeros(COUNT))
    for other, side in ((pictures(), 9), (relabelled, 10), (pictures(count=10), 10)):
        with pytest.raises(UserError, match=r"train\.pack exists already, of other images or settings.*--overwrite"):
            pack_split(other, tmp_path, side=side, workers=0)
    assert pack_split(relabelled, tmp_path, side=10, workers=0, overwrite=True).made == COUNT


def test_a_changed_image_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    """By size and time. A pack of an earlier version, whose digest is of the names alone, is still the same pack."""
    source, folder = tmp_path / "source", tmp_path / "packs"
    (source / "a").mkdir(parents=True)
    for place in range(3):
        pictures().image(place).save(source / "a" / f"{place}.png")
    data = load_folder(source)
    path = pack_split(data, folder, side=9, workers=0).path
    assert pack_split(data, folder, side=9, workers=0).made == 0
    whole, found = path.read_bytes(), read_pack(path)
    older = replace(found.header, images=packing._digest(data, files=False))
    path.write_bytes(older.encoded() + whole[found.pixels_at :])
    assert pack_split(data, folder, side=9, workers=0).made == 0
    path.write_bytes(whole)
    pictures().image(7).save(source / "a" / "1.png")
    with pytest.raises(UserError, match=r"all\.pack exists already, of other images or settings"):
        pack_split(data, folder, side=9, workers=0)


def test_packing_what_cannot_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Path) -> None:
    for memory in (load_dataset("fake", "train"), packed(pack)):
        with pytest.raises(UserError, match="is not read from image files: it needs no packing"):
            pack_split(memory, tmp_path, side=9)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"has 0\.0 GiB free, and 150 images of 9 pixels need"):
        pack_split(pictures(), tmp_path / "full", side=9)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [".pack.lock"]


def test_two_do_not_pack_at_once(tmp_path: Path) -> None:
    import multiprocessing

    with held(tmp_path / ".pack.lock"), multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply(_refused, (tmp_path,))
    assert "another process packs into" in said


def _refused(folder: Path) -> str:
    try:
        pack_split(pictures(), folder, side=9, workers=0)
    except UserError as error:
        return str(error)
    return ""


def test_the_stored_side_is_that_of_the_margin() -> None:
    """What is packed for a size has it again: the round trip of rounding is exact."""
    assert with_margin(224) == 256
    assert all(round(with_margin(size) * 224 / 256) == size for size in range(8, 1000))


# ---- damaged files ----

HEADER = PackHeader(
    source="toy", split="train", images="", count=2, channels=1, side=2, image_size=2, mean=(0.5,), std=(0.25,),
    classes=("a",), labelled=True,
)  # fmt: skip


def content(header: PackHeader | dict[str, Any] = HEADER, labels: tuple[int, ...] = (0, -1)) -> bytes:
    """A pack of two grey images of four pixels, whatever its header says."""
    if isinstance(header, PackHeader):
        start = header.encoded()
    else:
        text = json.dumps(header).encode()
        start = (struct.pack("<8sIII", b"WASSPACK", 1, len(text), zlib.crc32(text)) + text).ljust(4096, b"\0")
    pixels, stored = bytes(range(8)), np.array(labels, "<i8").tobytes()
    return start + pixels + stored + struct.pack("<2I", zlib.crc32(pixels), zlib.crc32(stored))


def changed(**values: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(HEADER), **values}


def test_the_smallest_pack(tmp_path: Path) -> None:
    (tmp_path / "train.pack").write_bytes(content())
    found = packed(tmp_path)
    assert found.packed is not None
    assert found.packed.rows(torch.tensor([1])).tolist() == [[[[4, 5], [6, 7]]]]
    assert [right for _, right in read_pack(tmp_path / "train.pack").damaged()] == [True]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (b"", "it does not begin as one"),
        (b"PK\3\4" + content(), "it does not begin as one"),
        (content()[:8] + b"\2" + content()[9:], "it has version 2 of the format, and this wasskit reads version 1"),
        (content()[:12] + b"\xff\xff\xff\xff" + content()[16:], "a header of 4,294,967,295 bytes, more than"),
        (content()[:40] + b"?" + content()[41:], "its header is damaged"),
        (content()[:100], "its header is damaged or cut short"),
        (content()[:-1], "it has 4,127 bytes, and its 2 images need 4,128"),
        (content() + b"\0", "it has 4,129 bytes"),
        (content(changed(count=2**39)), "images need"),
        (content(changed(count=2**41)), "gives count as something other than a number"),
        (content(changed(count=True)), "gives count as"),
        (content(changed(side=0)), "gives side as"),
        (content(changed(channels=2)), "neither 1 nor 3 channels"),
        (content(changed(channels=True)), "neither 1 nor 3 channels"),
        (content(changed(mean=[0.5, 0.5])), "mean by channel"),
        (content(changed(std=[0.0])), "gives std as"),
        (content(changed(std=[float("nan")])), "gives std as"),
        (content(changed(mean=[1])), "gives mean as"),
        (content(changed(classes=["a", 1])), "gives classes as something other than a list of texts"),
        (content(changed(source=None)), "gives source as something other than text"),
        (content(changed(labelled=1)), "whether it is labelled"),
        (content({"count": 1}), "the fields of one"),
        (content(labels=(0, 1)), "labels outside its 1 classes"),
        (content(labels=(0, -2)), "labels outside its 1 classes"),
        (content()[:-1] + b"\0", "its labels do not have their checksum"),
    ],
)
def test_damaged_packs_are_refused_in_a_sentence(tmp_path: Path, made: bytes, said: str) -> None:
    (tmp_path / "train.pack").write_bytes(made)
    with pytest.raises(UserError) as caught:
        packed(tmp_path)
    assert said in str(caught.value)
    assert str(caught.value).endswith("make it again with `wasskit data pack`.")
    assert str(tmp_path / "train.pack") in str(caught.value)


# ---- commands ----


def photos(folder: Path, classes: str = "abcd", count: int = 10) -> Path:
    noise = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = noise.integers(0, 255, (20, 24 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_the_splits_of_a_folder(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos(tmp_path / "classes") / "a" / "0.png", flat / "x.png")
    assert folder_splits(flat) == ("train",)
    assert folder_splits(tmp_path / "classes") == ("train", "test")
    for part in ("train", "valid"):
        photos(tmp_path / "parts" / part)
    assert folder_splits(tmp_path / "parts") == ("train", "val")
    table = tmp_path / "t.csv"
    for text, expected in (
        ("path,label,split\na.png,x,test\nb.png,x,train\n", ("train", "test")),
        ("path\na.png\n", ("train",)),
        ("path,label\na.png,x\n", ("train", "test")),
    ):
        table.write_text(text)
        assert folder_splits(table) == expected


def test_the_commands(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    source, out = photos(tmp_path / "photos"), tmp_path / "out"
    made = run_cli("data", "pack", source, out, "--size", "16", "--workers", "0", "--json")
    packs = json.loads(made.stdout)["packs"]
    assert [(one["split"], one["images"], one["made"], one["side"]) for one in packs] == [
        ("train", 32, 32, 16), ("test", 8, 8, 16),
    ]  # fmt: skip
    files, stored = load_folder(source, "train"), packed(out)
    assert stored.image_size == 14
    assert stored.classes == files.classes == ("a", "b", "c", "d")
    assert torch.equal(stored.filled_labels(), files.filled_labels())
    assert stored.notes == files.notes
    assert [one["made"] for one in json.loads(
        run_cli("data", "pack", source, out, "--size", "16", "--workers", "0", "--json").stdout
    )["packs"]] == [0, 0]  # fmt: skip
    assert "Every checksum is right" in run_cli("data", "verify", out).stdout
    with (out / "train.pack").open("r+b") as file:
        file.seek(-32 * 8 - 8 - 2, 2)
        file.write(b"?!")
    damaged = run_cli("data", "verify", out)
    assert damaged.exit_code == 2
    assert "1 of its 1 chunks do not have their checksum" in damaged.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{}/nowhere", "{}/out"), "neither a folder or CSV file"),
        (("imagefolder", "{}/out"), "Which images?"),
        (("digits", "{}/out"), "it needs no packing"),
        (("{}/photos", "{}/out", "--split", "val"), "val"),
        (("{}/photos", "{}/out", "--own-classes"), "has no folders train and test whose classes are their own"),
        (("{}/photos", "{}/out", "--size", "4"), "--size"),
        (("{}/photos", "{}/photos/a/0.png", "--workers", "0"), "0.png is a file: name another place for the pack"),
    ],
)
def test_what_pack_refuses(tmp_path: Path, run_cli: Callable[..., Any], words: tuple[str, ...], said: str) -> None:
    photos(tmp_path / "photos", "ab", 3)
    refused = run_cli("data", "pack", *(word.format(tmp_path) for word in words))
    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_of_packs(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "a.pack").touch()
    refused = run_cli("data", "verify", tmp_path / "a.pack")
    assert refused.exit_code == 2
    assert "is a file: name the folder" in " ".join(refused.stderr.split())


def test_packs_for_metric_learning(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    source = tmp_path / "photos"
    photos(source / "train", "abc", 4)
    photos(source / "test", "xyz", 3)
    run_cli("data", "pack", source, tmp_path / "own", "--size", "16", "--workers", "0", "--own-classes")
    splits = load_metric_splits("packed", root=tmp_path / "own")
    assert (splits.train.classes, splits.test.classes) == (("a", "b", "c"), ("x", "y", "z"))
    assert (len(splits.train), len(splits.test)) == (12, 9)
    # Of splits with the same classes, every other class trains: all images are there.
    run_cli("data", "pack", source / "train", tmp_path / "same", "--size", "16", "--workers", "0")
    photos(tmp_path / "four")
    run_cli("data", "pack", tmp_path / "four", tmp_path / "same4", "--size", "16", "--workers", "0")
    halves = load_metric_splits("packed", root=tmp_path / "same4")
    assert (halves.train.classes, len(halves.train), halves.test.classes) == (("a", "c"), 20, ("b", "d"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("mrl", "train", "--dims", "2,4", "--epochs", "1"),
        ("ssl", "barlow", "--projector", "16,8", "--epochs", "1"),
        ("metrix", "train", "--images-per-class", "8", "--epochs", "1"),
    ],
    ids=lambda words: words[0],
)
def test_every_plugin_trains_on_a_pack(tmp_path: Path, run_cli: Callable[..., Any], words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    run_cli("data", "pack", photos(tmp_path / "photos"), out, "--size", "16", "--workers", "0")
    common = ("--dataset", "packed", "--data-root", out, "--batch-size", "16", "--device", "cpu", "--no-tensorboard",
              "--backbone", "tiny", "--run-dir", tmp_path / "run")  # fmt: skip
    trained = run_cli(*words, *common)
    assert trained.exit_code == 0, trained.stderr
    described = run_cli(words[0], "evaluate", tmp_path / "run", "--json")
    assert json.loads(described.stdout)
