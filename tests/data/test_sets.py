"""Every set, from real files where there are some and from files in the original formats otherwise."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.data.base import ImageDataset
from wasskit.data.formats.pickles import read_pickle
from wasskit.data.registry import load_dataset
from wasskit.data.sets.cifar import PUBLISHED_MD5
from wasskit.data.sets.imagenet100 import IMAGENET100_WNIDS
from wasskit.errors import UserError


def labels_of(dataset: ImageDataset) -> torch.Tensor:
    assert dataset.labels is not None
    return dataset.labels


def images_of(dataset: ImageDataset) -> torch.Tensor:
    assert dataset.images is not None
    return dataset.images


def write_png(path: Path, colour: tuple[int, int, int] = (1, 2, 3), size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)
    return path


class TestDigits:
    def test_parts_are_disjoint_complete_and_stratified(self) -> None:
        parts = [load_dataset("digits", split) for split in ("train", "val", "test")]
        assert [len(part) for part in parts] == [1259, 179, 359]
        from sklearn.datasets import load_digits

        rows = torch.cat([images_of(part).flatten(1) for part in parts])
        assert int(rows.max()) == 255
        restored = (rows.double() * 16 / 255).round().long().tolist()
        assert sorted(restored) == sorted(load_digits().data.astype(int).tolist())
        for part in parts:
            counts = torch.bincount(labels_of(part)).double()
            assert float((counts / len(part)).max()) < 0.11
            assert float((counts / len(part)).min()) > 0.09

    @pytest.mark.slow
    def test_reading_them_imports_no_sklearn(self) -> None:
        code = (
            "import sys; from wasskit.data.registry import load_dataset; load_dataset('digits', 'train');"
            "print([m for m in ('sklearn', 'torchvision') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"

    def test_the_split_is_fixed(self) -> None:
        first = load_dataset("digits", "test", seed=0)
        assert torch.equal(images_of(first), images_of(load_dataset("digits", "test", seed=7)))

    def test_normalisation_is_that_of_the_training_part(self) -> None:
        train = load_dataset("digits", "train")
        scaled = images_of(train).double() / 255
        assert abs(float(scaled.mean()) - train.mean[0]) < 1e-3
        assert abs(float(scaled.std()) - train.std[0]) < 1e-3


FETCH = """
import sys, time
from pathlib import Path
from wasskit.data.registry import Request
from wasskit.data.catalog import CARDS

root = Path(sys.argv[1])

def download(request, target):
    with (root / "log").open("a") as log:
        log.write("begun ")
    target.mkdir()
    for name in ("train.npz", "test.npz"):
        (target / name).touch()
    time.sleep(0.5)
    (target / "whole").touch()

while sys.argv[2] == "late" and not (root / "cifar10-jpeg" / "test.npz").exists():
    time.sleep(0.01)
found = Request(CARDS["cifar10-jpeg"], "train", root, True, True, "refuse", 0).obtain(download)
print(found, (found / "whole").exists())
"""


class TestRegistry:
    @pytest.mark.slow
    def test_processes_that_want_the_same_set_download_it_once(self, tmp_path: Path) -> None:
        processes = [
            subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path), when], stdout=subprocess.PIPE, text=True)
            for when in ("early", "early", "late")
        ]
        found = {process.communicate()[0].strip() for process in processes}
        assert found == {f"{tmp_path / 'cifar10-jpeg'} True"}
        assert (tmp_path / "log").read_text() == "begun "

    def test_unknown_names_get_the_nearest(self) -> None:
        with pytest.raises(UserError, match="did you mean cifar10"):
            load_dataset("cifar1O", "train")

    def test_a_missing_set_says_where_what_and_whence(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            load_dataset("cifar10", "train", root=tmp_path)
        for part in (str(tmp_path), "data_batch_1", "cs.toronto.edu", "--download", "--data-root"):
            assert part in str(caught.value)

    def test_validation_is_split_off_and_disjoint(self) -> None:
        rest = load_dataset("fake", "train", validation=0.25, seed=1)
        part = load_dataset("fake", "val", validation=0.25, seed=1)
        assert (len(rest), len(part), part.split) == (512 - len(part), len(part), "val")
        whole = {tuple(x) for x in images_of(load_dataset("fake", "train", seed=1)).flatten(1).tolist()}
        seen = [tuple(x) for x in torch.cat([images_of(rest), images_of(part)]).flatten(1).tolist()]
        assert set(seen) == whole
        assert len(seen) == 512

    @pytest.mark.parametrize(
        ("name", "split", "options", "message"),
        [
            ("cifar10", "val", {}, "--validation"),
            ("digits", "trian", {}, "train, val, test"),
            ("digits", "train", {"validation": 1.5}, "fraction"),
            ("digits", "train", {"corrupt": "maybe"}, "refuse or skip"),
            ("digits", "train", {"image_size": 0}, "pixel"),
        ],
    )
    def test_bad_requests(self, name: str, split: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_dataset(name, split, **options)


def write_cifar(root: Path, count: int = 4) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.full((count, 3072), i, dtype=np.uint8)
        content = {b"data": data, b"labels": [0, 1, 2, 9][:count], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"label_names": [b"c%d" % i for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


class _Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class TestCifar:
    def test_the_real_subset(self, data_root: Path) -> None:
        train, test = (load_dataset("cifar10", split, root=data_root) for split in ("train", "test"))
        assert torch.bincount(labels_of(train)).tolist() == [508, 515, 478, 484, 527, 469, 497, 512, 518, 492]
        assert torch.bincount(labels_of(test)).tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
        assert train.notes == ("cifar10/train: 5,000 of 50,000 images",)
        assert train.classes[0] == "airplane"
        with (data_root / "cifar10/cifar-10-batches-py/data_batch_1").open("rb") as stream:
            raw = pickle.load(stream, encoding="latin1")
        assert images_of(train)[0, 1, 2, 3] == raw["data"].reshape(-1, 3, 32, 32)[0, 1, 2, 3]

    def test_written_by_hand(self, tmp_path: Path) -> None:
        write_cifar(tmp_path)
        train = load_dataset("cifar10", "train", root=tmp_path)
        assert labels_of(train).tolist() == [0, 1, 2, 9] * 5
        assert images_of(train)[:, 0, 0, 0].tolist() == [i for i in range(5) for _ in range(4)]

    def test_the_published_sums_are_those_of_torchvision(self) -> None:
        from torchvision.datasets import CIFAR10, CIFAR100

        theirs = {
            f"{folder}/{name}": md5
            for kind, folder in ((CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python"))
            for name, md5 in (*kind.train_list, *kind.test_list)
        }
        assert theirs == PUBLISHED_MD5

    def test_a_whole_set_that_is_not_the_published_one_is_noted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        content = {"data": np.zeros((10_000, 3072), np.uint8), "fine_labels": [0] * 10_000}
        for name in ("train", "test"):
            (folder / name).write_bytes(pickle.dumps(content, protocol=4))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{i}" for i in range(100)]}))
        (note,) = load_dataset("cifar100", "test", root=tmp_path).notes
        assert "not the published file" in note
        assert str(folder / "test") in note
        md5 = hashlib.md5((folder / "test").read_bytes()).hexdigest()
        monkeypatch.setitem(PUBLISHED_MD5, "cifar-100-python/test", md5)
        assert load_dataset("cifar100", "test", root=tmp_path).notes == ()

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_all_pickle_protocols(self, tmp_path: Path, protocol: int) -> None:
        (tmp_path / "x").write_bytes(pickle.dumps({"data": np.arange(6, dtype=np.uint8)}, protocol=protocol))
        assert read_pickle(tmp_path / "x")["data"].tolist() == list(range(6))

    @pytest.mark.parametrize("damage", ["truncated", "empty", "text", "list", "labels", "short", "evil", "gone"])
    def test_damaged_pickles_are_named(self, tmp_path: Path, damage: str) -> None:
        file = write_cifar(tmp_path) / "data_batch_3"
        content = pickle.loads(file.read_bytes())
        replacement = {
            "truncated": file.read_bytes()[:5000],
            "empty": b"",
            "text": b"<html>not found</html>",
            "list": pickle.dumps([1, 2]),
            "labels": pickle.dumps({**content, b"labels": [0, 1, 2, 10]}),
            "short": pickle.dumps({**content, b"labels": [0]}),
            "evil": pickle.dumps({"data": _Evil(tmp_path / "trace")}),
        }
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(replacement[damage])
        with pytest.raises(UserError, match="data_batch_3"):
            load_dataset("cifar10", "train", root=tmp_path)
        assert not (tmp_path / "trace").exists()

    def test_cifar100_fine_labels(self, tmp_path: Path) -> None:
        folder = tmp_path / "cifar100" / "cifar-100-python"
        folder.mkdir(parents=True)
        content = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [99, 3], "coarse_labels": [1, 1]}
        for name in ("train", "test"):
            (folder / name).write_bytes(pickle.dumps(content))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"f{i}" for i in range(100)]}))
        assert labels_of(load_dataset("cifar100", "test", root=tmp_path)).tolist() == [99, 3]


def jpeg(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (colour,) * 3).save(stream, "jpeg", quality=100)
    return stream.getvalue()


class TestCifarJpeg:
    def write(self, root: Path, files: list[bytes]) -> Path:
        offsets = np.cumsum([0, *map(len, files)])
        blob = np.frombuffer(b"".join(files), dtype=np.uint8)
        for split in ("train", "test"):
            np.savez(root / f"{split}.npz", blob=blob, offsets=offsets, labels=np.arange(len(files)))
        return root / "train.npz"

    def test_read_and_skip(self, tmp_path: Path) -> None:
        self.write(tmp_path, [jpeg(10), jpeg(200)[:200], jpeg(30)])
        with pytest.raises(UserError, match=r"1 of 3 images.*number 1"):
            load_dataset("cifar10-jpeg", "train", root=tmp_path)
        kept = load_dataset("cifar10-jpeg", "train", root=tmp_path, corrupt="skip")
        assert labels_of(kept).tolist() == [0, 2]
        assert images_of(kept)[:, 0, 0, 0].tolist() == [10, 30]
        assert len(kept.skipped) == 1

    def test_truncated_archive(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, [jpeg(10)])
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match=r"train\.npz"):
            load_dataset("cifar10-jpeg", "train", root=tmp_path)

    def test_offsets_that_do_not_fit(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", blob=np.zeros(5, np.uint8), offsets=np.array([0, 9]), labels=np.zeros(1, int))
        np.savez(tmp_path / "test.npz", x=1)
        with pytest.raises(UserError, match="inconsistent"):
            load_dataset("cifar10-jpeg", "train", root=tmp_path)
        with pytest.raises(UserError, match="blob"):
            load_dataset("cifar10-jpeg", "test", root=tmp_path)

    @pytest.mark.slow
    def test_the_real_test_part_is_near_the_original(self, data_root: Path) -> None:
        if not (data_root / "cifar10_jpeg").exists():
            pytest.skip("no cifar10_jpeg")
        test = load_dataset("cifar10-jpeg", "test", root=data_root)
        assert torch.bincount(labels_of(test)).tolist() == [1000] * 10
        original = load_dataset("cifar10", "test", root=data_root)
        for index in (0, 1, 2):
            image, label = images_of(original)[index], labels_of(original)[index]
            same = images_of(test)[labels_of(test) == label]
            assert float((same.float() - image.float()).abs().mean((1, 2, 3)).min()) < 15


class TestStl10:
    def write(self, root: Path) -> Path:
        folder = root / "stl10_binary"
        folder.mkdir()
        for name, count in (("train", 2), ("test", 3), ("unlabeled", 5)):
            images = np.zeros((count, 3, 96, 96), np.uint8)
            images[:, 1, 10, 20] = 255  # row 10, column 20
            images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")
            (np.arange(count, dtype=np.uint8) + 1).tofile(folder / f"{name}_y.bin")
        return folder

    def test_parts(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        train = load_dataset("stl10", "train", root=tmp_path)
        assert torch.nonzero(images_of(train)[0]).tolist() == [[1, 10, 20]], "planes are stored by columns"
        assert labels_of(train).tolist() == [0, 1]
        assert train.notes == ("stl10/train: 2 of 5,000 images",)
        assert load_dataset("stl10", "unlabeled", root=tmp_path).labels is None
        both = load_dataset("stl10", "train+unlabelled", root=tmp_path)
        assert labels_of(both).tolist() == [0, 1, -1, -1, -1, -1, -1]

    def test_damage(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path)
        np.zeros(1, np.uint8).tofile(folder / "test_y.bin")
        with pytest.raises(UserError, match="test_y"):
            load_dataset("stl10", "test", root=tmp_path)
        (folder / "test_X.bin").write_bytes(b"x" * 1000)
        with pytest.raises(UserError, match="1000 bytes, not a multiple of 27648"):
            load_dataset("stl10", "test", root=tmp_path)
        (folder / "unlabeled_X.bin").unlink()
        with pytest.raises(UserError, match=r"no file .*unlabeled_X\.bin"):
            load_dataset("stl10", "unlabelled", root=tmp_path)


class TestTinyImageNet:
    def write(self, root: Path) -> Path:
        folder = root / "tiny-imagenet-200"
        for c, wnid in enumerate(("n02", "n01")):
            for i in range(2):
                write_png(folder / "train" / wnid / "images" / f"{wnid}_{i}.png", (c, c, c), 64)
        write_png(folder / "val/images/val_0.png", (5, 5, 5), 64)
        write_png(folder / "val/images/val_1.png", (6, 6, 6), 64)
        (folder / "wnids.txt").write_text("n02\nn01\n")
        (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\ttench\n")
        (folder / "val/val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t1\t1\nval_1.png\tn01\t0\t0\t1\t1\n")
        return folder

    def test_parts(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path)
        train = load_dataset("tiny-imagenet", "train", root=tmp_path)
        assert train.classes == ("goldfish", "tench")
        assert labels_of(train).tolist() == [0, 0, 1, 1]
        assert images_of(train)[:, 0, 0, 0].tolist() == [1, 1, 0, 0]
        test = load_dataset("tiny-imagenet", "test", root=tmp_path)
        assert labels_of(test).tolist() == [1, 0]
        for wnid, file in (("n02", "val_0.png"), ("n01", "val_1.png")):
            (folder / "val" / wnid).mkdir()
            (folder / "val/images" / file).rename(folder / "val" / wnid / file)
        (folder / "val/images").rmdir()
        rearranged = load_dataset("tiny-imagenet", "test", root=tmp_path)
        assert labels_of(rearranged).tolist() == [0, 1]

    def test_a_damaged_image(self, tmp_path: Path) -> None:
        path = self.write(tmp_path) / "train/n01/images/n01_1.png"
        path.write_bytes(b"")
        with pytest.raises(UserError, match=r"1 of 4 images.*n01_1\.png"):
            load_dataset("tiny-imagenet", "train", root=tmp_path)
        assert labels_of(load_dataset("tiny-imagenet", "train", root=tmp_path, corrupt="skip")).tolist() == [0, 1, 1]


class TestImageNet100:
    def test_the_list(self) -> None:
        assert len(set(IMAGENET100_WNIDS)) == 100
        assert IMAGENET100_WNIDS[0] == "n02869837"
        assert IMAGENET100_WNIDS[-1] == "n02090622"

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        source = write_png(tmp_path / "x.png").read_bytes()
        for split in ("train", "val"):
            for wnid in (*IMAGENET100_WNIDS, "n01440764"):
                folder = tmp_path / "imagenet" / split / wnid
                folder.mkdir(parents=True)
                (folder / f"{wnid}_1.JPEG").write_bytes(source)
        return tmp_path

    def test_the_whole_imagenet_is_cut_down(self, tree: Path) -> None:
        test = load_dataset("imagenet100", "test", root=tree)
        assert len(test) == 100
        assert test.classes == tuple(sorted(IMAGENET100_WNIDS))
        assert test.paths is not None
        assert all(test.classes[c] in str(p) for c, p in zip(labels_of(test).tolist(), test.paths, strict=True))

    def test_a_missing_class_is_named(self, tree: Path) -> None:
        folder = tree / "imagenet" / "val" / "n02090622"
        next(folder.iterdir()).unlink()
        folder.rmdir()
        with pytest.raises(UserError, match=r"lacks 1 of the 100.*n02090622"):
            load_dataset("imagenet100", "test", root=tree)

    def test_a_flat_validation_folder_with_its_table(self, tree: Path) -> None:
        base = tree / "imagenet"
        (base / "val").rename(base / "sorted")
        write_png(base / "val" / "ILSVRC2012_val_00000001.png").rename(base / "val/ILSVRC2012_val_00000001.JPEG")
        (base / "LOC_val_solution.csv").write_text(
            "ImageId,PredictionString\n"
            "ILSVRC2012_val_00000001,n02090622 1 2 3 4 \nILSVRC2012_val_00000002,n01440764 1 2 3 4 \n"
        )
        test = load_dataset("imagenet100", "test", root=tree)
        assert [test.classes[c] for c in labels_of(test).tolist()] == ["n02090622"]

    def test_nothing_is_downloaded_over_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "imagenet100").mkdir()
        (tmp_path / "imagenet100" / "state.json").touch()
        with pytest.raises(UserError, match="is there but is not a copy of imagenet100: move it away"):
            load_dataset("imagenet100", "train", root=tmp_path, download=True)

    def test_the_hugging_face_copy_needs_its_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "imagenet100").mkdir()
        (tmp_path / "imagenet100" / "dataset_dict.json").write_text("{}")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=r"wasskit\[datasets\]"):
            load_dataset("imagenet100", "train", root=tmp_path)


def write_hugging_face(folder: Path, rows: dict[str, list[bytes]], *, layout: str = "disk", classes: int = 100) -> None:
    """A copy like the public one; ``rows``: the files of each split, of the classes 0, 1, ... in turn."""
    library = pytest.importorskip("datasets")
    names = library.ClassLabel(names=[f"class {c}" for c in range(classes)])
    features = library.Features({"image": library.Image(), "label": names})
    tables = library.DatasetDict(
        {
            split: library.Dataset.from_dict(
                {
                    "image": [{"bytes": file, "path": None} for file in files],
                    "label": [i % classes for i in range(len(files))],
                },
                features=features,
            )
            for split, files in rows.items()
        }
    )
    if layout == "disk":
        tables.save_to_disk(str(folder))
        return
    (folder / "data").mkdir(parents=True)
    for split, table in tables.items():
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet"))


def encoded(colour: tuple[int, ...], mode: str = "RGB", suffix: str = "png", turn: int = 1) -> bytes:
    stream, notes = io.BytesIO(), Image.Exif()
    notes[0x0112] = turn
    Image.new(mode, (8, 6), colour if len(colour) > 1 else colour[0]).save(stream, suffix, exif=notes)
    return stream.getvalue()


class TestHuggingFaceCopy:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        library = pytest.importorskip("datasets")
        monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.mark.parametrize("layout", ["disk", "parquet"])
    def test_all_modes_are_read_upright(self, tmp_path: Path, layout: str) -> None:
        files = [encoded((i, 2, 3)) for i in range(100)]
        files[3] = encoded((40,), "L")
        files[5] = encoded((0, 0, 0, 255), "CMYK", "jpeg")
        files[7] = encoded((7, 7, 7), turn=6)
        write_hugging_face(tmp_path / "imagenet-100", {"train": files, "validation": files[:50]}, layout=layout)
        train = load_dataset("imagenet100", "train", root=tmp_path)
        assert labels_of(train).tolist() == list(range(100))
        assert train.classes[99] == "class 99"
        assert [train.image(i).getpixel((0, 0)) for i in (2, 3)] == [(2, 2, 3), (40, 40, 40)]
        assert int(np.asarray(train.image(5)).max()) <= 2
        assert (train.image(2).size, train.image(7).size) == ((8, 6), (6, 8))
        assert train.subset([9]).image(0).getpixel((0, 0)) == (9, 2, 3)
        assert pickle.loads(pickle.dumps(train)).image(9).getpixel((0, 0)) == (9, 2, 3)
        test = load_dataset("imagenet100", "test", root=tmp_path)
        assert len(test) == 50
        assert test.notes == ("imagenet100/test: 50 of 5,000 images",)

    def test_damaged_images_are_named_or_left_out(self, tmp_path: Path) -> None:
        files = [encoded((i, 2, 3)) for i in range(100)]
        files[11] = files[11][:60]
        write_hugging_face(tmp_path / "imagenet100", {"train": files, "validation": files[:5]})
        with pytest.raises(UserError, match="1 of 100 images cannot be read: imagenet100/train number 11"):
            load_dataset("imagenet100", "train", root=tmp_path)
        kept = load_dataset("imagenet100", "train", root=tmp_path, corrupt="skip")
        assert (len(kept), len(kept.skipped)) == (99, 1)
        assert kept.image(11).getpixel((0, 0)) == (12, 2, 3)
        assert int(labels_of(kept)[11]) == 12

    @pytest.mark.parametrize(
        ("classes", "splits", "message"),
        [
            (100, ("train",), "has no split 'validation': it has train"),
            (10, ("train", "validation"), "should have the 100 classes .* have 10, 10"),
        ],
    )
    def test_another_set_is_refused(self, tmp_path: Path, classes: int, splits: tuple[str, ...], message: str) -> None:
        files = [encoded((i, 2, 3)) for i in range(10)]
        write_hugging_face(tmp_path / "imagenet100", dict.fromkeys(splits, files), classes=classes)
        with pytest.raises(UserError, match=message):
            load_dataset("imagenet100", "test", root=tmp_path)

    def test_columns_must_be_those_of_the_public_copy(self, tmp_path: Path) -> None:
        library = pytest.importorskip("datasets")
        table = library.Dataset.from_dict({"image": ["x"], "label": [1]})
        library.DatasetDict(train=table).save_to_disk(str(tmp_path / "imagenet100"))
        with pytest.raises(UserError, match=r"columns image and label.*it has image, label"):
            load_dataset("imagenet100", "train", root=tmp_path)

    def test_a_download_that_was_cut_short_is_not_taken_for_a_copy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = pytest.importorskip("datasets")
        files = [encoded((i, 2, 3)) for i in range(100)]
        write_hugging_face(tmp_path / "public", {"train": files, "validation": files})

        class Cut:
            def save_to_disk(self, path: str) -> None:
                write_hugging_face(Path(path), {"train": files})
                raise KeyboardInterrupt

        monkeypatch.setattr(library, "load_dataset", lambda name: Cut())
        with pytest.raises(KeyboardInterrupt):
            load_dataset("imagenet100", "train", root=tmp_path / "data", download=True)
        with pytest.raises(UserError, match="is not in"):
            load_dataset("imagenet100", "train", root=tmp_path / "data")
        monkeypatch.setattr(library, "load_dataset", lambda name: library.load_from_disk(str(tmp_path / "public")))
        assert len(load_dataset("imagenet100", "test", root=tmp_path / "data", download=True)) == 100
