from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.data.catalog import CARDS
from wasskit.data.metric_sets import load_metric_splits, split_classes
from wasskit.data.registry import load_dataset
from wasskit.errors import UserError


def picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), 77 if mode == "L" else (200, 10, 30)).save(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miniature sets count as whole ones."""
    for name in ("cub", "cars", "sop"):
        publish(monkeypatch, name, train=(4, 2), test=(6, 3))
    publish(monkeypatch, "inshop", train=(4, 2), query=(3, 3), gallery=(6, 3))


def publish(monkeypatch: pytest.MonkeyPatch, name: str, **numbers: tuple[int, int]) -> None:
    counts, class_counts = ({split: pair[i] for split, pair in numbers.items()} for i in range(2))
    card = replace(CARDS[name], counts=counts, class_counts=class_counts)
    monkeypatch.setitem(CARDS, name, card)


def make_cub(root: Path) -> Path:
    folder = root / "CUB_200_2011"
    names = ["001.Albatross", "100.Brown_Pelican", "101.White_Pelican", "150.Sage_Thrasher", "200.Yellowthroat"]
    lines: list[str] = []
    for name in names:
        for i in range(2):
            picture(folder / "images" / name / f"{name[4:]}_{i}.jpg", "L" if i else "RGB")
            lines.append(f"{len(lines) + 1} {name}/{name[4:]}_{i}.jpg")
        (folder / "images" / name / "._ghost.jpg").write_bytes(b"\0")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_sop(root: Path, folder: str = "Stanford_Online_Products") -> Path:
    base = root / folder
    lines = {"train": ["image_id class_id super_class_id path"], "test": ["image_id class_id super_class_id path"]}
    for number in (1, 2, 11319, 11320, 11321):
        for i in range(2):
            path = f"chair_final/{number}_{i}.JPG"
            picture((base / path).with_suffix(".jpg"))
            (base / path).with_suffix(".jpg").rename(base / path)
            lines["train" if number < 100 else "test"].append(f"{number * 2 + i} {number} 5 {path}")
    for split, rows in lines.items():
        (base / f"Ebay_{split}.txt").write_text("\n".join(rows) + "\n")
    return base


def make_inshop(base: Path, *, nested: bool) -> Path:
    rows = []
    for item, statuses in {
        "id_00000001": ["train", "train"],
        "id_00000002": ["train", "train"],
        "id_00000007": ["query", "gallery", "gallery"],
        "id_00000005": ["query", "gallery", "gallery"],
        "id_00000009": ["query", "gallery", "gallery"],
    }.items():
        for i, status in enumerate(statuses):
            path = f"img/WOMEN/Dresses/{item}/0{i}_front.jpg"
            picture((base / "Img" if nested else base) / path)
            rows.append(f"{path}    {item}  {status}")
    file = (base / "Eval" if nested else base) / "list_eval_partition.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([str(len(rows)), "image_name item_id evaluation_status", *rows]) + "\n")
    return file


CARS = [1, 1, 98, 98, 99, 99, 100, 100, 196, 196]


def mat_rows(rows: list[tuple[str, int]], path: str, *, labels: bool = True) -> np.ndarray:
    fields = [(path, "O"), ("bbox_x1", "O"), *([("class", "O")] if labels else [])]
    values = np.empty((1, len(rows)), dtype=fields)
    for i, (name, number) in enumerate(rows):
        values[0, i] = (name, 3, number) if labels else (name, 3)
    return values


def make_cars(root: Path, *, newer: bool, labels: bool = True) -> None:
    from scipy.io import savemat

    names = np.array([f"Maker {i}" for i in range(1, 197)], dtype=object)
    if not newer:
        rows = [(f"car_ims/{i:06d}.jpg", number) for i, number in enumerate(CARS, 1)]
        for path, _ in rows:
            picture(root / path)
        savemat(
            root / "cars_annos.mat", {"annotations": mat_rows(rows, "relative_im_path"), "class_names": names[None]}
        )
        return
    (root / "devkit").mkdir(parents=True)
    for split, kept in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        rows = [(f"{i:05d}.jpg", number) for i, number in enumerate(CARS[kept], 1)]
        for path, _ in rows:
            picture(root / f"cars_{split}" / path)
        name = "cars_test_annos_withlabels.mat" if split == "test" else "cars_train_annos.mat"
        place = root if split == "test" else root / "devkit"
        if split == "train" or labels:
            savemat(place / name, {"annotations": mat_rows(rows, "fname")})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names[None]})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("inside", [".", "cub", "CUB_200_2011"])
def test_cub(tmp_path: Path, inside: str) -> None:
    make_cub(tmp_path if inside == "CUB_200_2011" else tmp_path / inside)
    root = tmp_path / inside if inside == "CUB_200_2011" else tmp_path
    splits = load_metric_splits("cub", root=root)
    assert splits.gallery is splits.val is None
    assert splits.train.classes == ("001.Albatross", "100.Brown_Pelican")
    assert splits.test.classes == ("101.White_Pelican", "150.Sage_Thrasher", "200.Yellowthroat")
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.test.filled_labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert not splits.train.notes
    assert splits.train.image(1).mode == "RGB"  # stored grey


@pytest.mark.usefixtures("small")
def test_cub_with_fewer_classes_is_a_subset_that_says_so(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(lines[:8]) + "\n")
    test = load_dataset("cub", "test", root=tmp_path)
    assert len(test) == 4
    assert "a subset" in test.notes[0]
    (folder / "images.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match=r"images\.txt lists 5 test images of 3 classes, but cub has 6 of 3"):
        load_dataset("cub", "test", root=tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("folder", ["Stanford_Online_Products", "sop/Stanford_Online_Products"])
def test_sop(tmp_path: Path, folder: str) -> None:
    make_sop(tmp_path, folder)
    splits = load_metric_splits("sop", root=tmp_path)
    assert splits.train.classes == ("1", "2")
    assert splits.test.classes == ("11319", "11320", "11321")
    assert splits.test.filled_labels().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("folder", ["inshop", "InShop_Clothes"])
def test_inshop(tmp_path: Path, nested: bool, folder: str) -> None:
    make_inshop(tmp_path / folder, nested=nested)
    splits = load_metric_splits("inshop", root=tmp_path)
    assert splits.gallery is not None
    assert splits.test.split == "query"
    assert splits.test.classes == splits.gallery.classes == ("id_00000005", "id_00000007", "id_00000009")
    assert splits.test.filled_labels().tolist() == [1, 0, 2]
    assert splits.gallery.filled_labels().tolist() == [1, 1, 0, 0, 2, 2]
    assert splits.train.filled_labels().tolist() == [0, 0, 1, 1]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("newer", [True, False])
def test_cars(tmp_path: Path, newer: bool) -> None:
    make_cars(tmp_path / "cars196", newer=newer)
    splits = load_metric_splits("cars", root=tmp_path)
    assert splits.train.classes == ("001 Maker 1", "098 Maker 98")
    assert splits.test.classes == ("099 Maker 99", "100 Maker 100", "196 Maker 196")
    assert sorted(splits.test.filled_labels().tolist()) == [0, 0, 1, 1, 2, 2]
    assert splits.test.paths is not None
    assert all(path.is_file() for path in splits.test.paths)


@pytest.mark.usefixtures("small")
def test_cars_without_the_labels_of_the_test_images(tmp_path: Path) -> None:
    make_cars(tmp_path, newer=True, labels=False)
    with pytest.raises(UserError, match=r"put cars_test_annos_withlabels\.mat into"):
        load_metric_splits("cars", root=tmp_path)
    from scipy.io import savemat

    unlabelled = mat_rows([("00001.jpg", 1), ("00002.jpg", 1)], "fname", labels=False)
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": unlabelled})
    with pytest.raises(UserError, match="have no 'class'"):
        load_metric_splits("cars", root=tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(b"no matlab")
    with pytest.raises(UserError, match=r"withlabels\.mat is not a readable MATLAB file"):
        load_metric_splits("cars", root=tmp_path)


@pytest.mark.usefixtures("small")
def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    (folder / "images/101.White_Pelican/White_Pelican_1.jpg").unlink()
    with pytest.raises(UserError, match=r"White_Pelican_1\.jpg \(no such file\)"):
        load_dataset("cub", "test", root=tmp_path)
    test = load_dataset("cub", "test", root=tmp_path, corrupt="skip")
    assert len(test) == 5
    assert [Path(bad.path).name for bad in test.skipped] == ["White_Pelican_1.jpg"]
    assert len(load_dataset("cub", "train", root=tmp_path)) == 4


@pytest.mark.usefixtures("small")
def test_damaged_lists_are_named(tmp_path: Path) -> None:
    base = make_sop(tmp_path)
    text = (base / "Ebay_test.txt").read_text()
    (base / "Ebay_test.txt").write_text("\n".join(text.splitlines()[:-2]) + "\n")
    with pytest.raises(UserError, match=r"Ebay_test\.txt lists 4 test images of 2 classes, but sop has 6 of 3"):
        load_dataset("sop", "test", root=tmp_path)
    (base / "Ebay_test.txt").write_text(text + "23 11321 5\n")
    with pytest.raises(UserError, match=r"Ebay_test\.txt line 8 has 3 entries in place of 4"):
        load_dataset("sop", "test", root=tmp_path)
    (base / "Ebay_test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_dataset("sop", "test", root=tmp_path)
    file = make_inshop(tmp_path / "inshop", nested=False)
    file.write_text(file.read_text().replace("13\n", "14\n", 1))
    with pytest.raises(UserError, match="announces '14' images and lists 13"):
        load_dataset("inshop", "query", root=tmp_path)


def test_absent_sets_say_where_they_were_looked_for(tmp_path: Path) -> None:
    for name in ("cub", "cars", "sop", "inshop", "faces"):
        with pytest.raises(UserError, match=f"the data set {name} is not in {tmp_path}"):
            load_metric_splits(name, root=tmp_path)


def test_digits_are_divided_by_class() -> None:
    splits = load_metric_splits("digits")
    assert splits.train.classes == ("0", "2", "4", "6", "8")
    assert splits.test.classes == ("1", "3", "5", "7", "9")
    assert len(splits.train) + len(splits.test) == 1797
    assert splits.train.filled_labels().unique().tolist() == list(range(5))
    assert splits.test.filled_labels().unique().tolist() == list(range(5))
    again = load_metric_splits("digits", seed=3)
    assert again.train.images is not None
    assert splits.train.images is not None
    assert torch.equal(again.train.images, splits.train.images)


def test_validation_takes_whole_classes(tmp_path: Path) -> None:
    for number in range(10):
        for i in range(3):
            picture(tmp_path / f"c{number}" / f"{i}.png")
    splits = load_metric_splits("imagefolder", root=tmp_path, validation=0.4)
    assert splits.val is not None
    assert len(splits.train.classes) == 3
    assert len(splits.val.classes) == 2
    assert len(splits.test.classes) == 5
    every = {*splits.train.classes, *splits.val.classes, *splits.test.classes}
    assert every == {f"c{i}" for i in range(10)}
    assert splits.val.filled_labels().tolist() == [0] * 3 + [1] * 3
    drawn = {load_metric_splits("imagefolder", root=tmp_path, validation=0.4, seed=s).train.classes for s in range(8)}
    assert len(drawn) > 1
    with pytest.raises(UserError, match="two of each are needed"):
        split_classes(splits.train, 0.5, 0)
    with pytest.raises(UserError, match=r"fraction of the classes in \[0, 1\)"):
        load_metric_splits("imagefolder", root=tmp_path, validation=1.0)


def test_folders_train_and_test(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("test", "de")):
        for name in names:
            picture(tmp_path / split / name / "1.png")
            picture(tmp_path / split / name / "2.png")
    splits = load_metric_splits("imagefolder", root=tmp_path)
    assert (splits.train.classes, splits.test.classes) == (("a", "b", "c"), ("d", "e"))
    picture(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(UserError, match=r"1 classes in train and in test \(a\)"):
        load_metric_splits("imagefolder", root=tmp_path)


def test_too_few_classes(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / name / "1.png")
    with pytest.raises(UserError, match="3 classes"):
        load_metric_splits("imagefolder", root=tmp_path)


@pytest.mark.slow
def test_real_birds_and_faces(data_root: Path) -> None:
    splits = load_metric_splits("cub", root=data_root)
    assert (len(splits.train), len(splits.test)) == (1171, 1167)
    assert (len(splits.train.classes), len(splits.test.classes)) == (20, 20)
    assert all(int(name[:3]) <= 100 for name in splits.train.classes)
    assert all(int(name[:3]) > 100 for name in splits.test.classes)
    assert "1,171 train images of 20 classes: a subset" in splits.train.notes[0]
    assert splits.train.image(0).size == (227, 227)
    faces = load_metric_splits("faces", root=data_root)
    assert faces.train.filled_labels().bincount().tolist() == [10] * 20
    assert faces.test.classes[0] == "s21"
    assert faces.test.image(0).size == (92, 112)
    assert faces.test.image(0).mode == "L"
