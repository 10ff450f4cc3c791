"""The user's own images, in good order and in bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.data.base import ImageDataset
from wasskit.data.decode import scan_images, to_memory
from wasskit.data.folder import load_folder
from wasskit.data.registry import load_dataset
from wasskit.errors import UserError


def write(path: Path, size: tuple[int, int] = (12, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(abs(hash(path.name)) % 2**32).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name, count in (("cat", 10), ("dog", 5), ("newt", 1)):
        for i in range(count):
            write(tmp_path / "pets" / name / f"{i}.jpg")
    return tmp_path / "pets"


def counts(dataset: ImageDataset) -> list[int]:
    assert dataset.labels is not None
    return torch.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()


def test_class_folders_are_divided_by_class(pets: Path) -> None:
    (pets / "cat" / "._0.jpg").write_bytes(b"resource fork")
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / ".thumbnails").mkdir()
    whole = load_dataset("imagefolder", "all", root=pets)
    assert (whole.classes, counts(whole)) == (("cat", "dog", "newt"), [10, 5, 1])
    train, test = (load_dataset("imagefolder", split, root=pets) for split in ("train", "test"))
    assert (counts(train), counts(test)) == ([8, 4, 1], [2, 1, 0]), "the only newt is for training"
    assert train.paths is not None
    assert test.paths is not None
    assert not set(train.paths) & set(test.paths)
    validation = load_dataset("imagefolder", "val", root=pets, validation=0.25)
    assert counts(validation) == [2, 1, 0]


def test_split_folders(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    pets.rename(root / "train")
    write(root / "valid" / "dog" / "a.png")
    test = load_folder(root, "test")
    assert (test.classes, counts(test)) == (("cat", "dog", "newt"), [0, 1, 0]), "labels are those of train"
    write(root / "valid" / "cow" / "a.png")
    with pytest.raises(UserError, match="cow"):
        load_folder(root, "val")


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "flat" / f"{i}.PNG")
    assert load_folder(tmp_path / "flat").labels is None
    assert len(load_folder(tmp_path / "flat", "train")) == 3
    with pytest.raises(UserError, match="without labels"):
        load_folder(tmp_path / "flat", "test")


def test_an_empty_class_folder(pets: Path) -> None:
    (pets / "axolotl").mkdir()
    with pytest.raises(UserError, match="axolotl"):
        load_folder(pets)
    kept = load_folder(pets, corrupt="skip")
    assert kept.classes == ("cat", "dog", "newt")
    assert any("1 empty" in note for note in kept.notes)


@pytest.mark.parametrize("what", ["nowhere", "empty", "file.txt"])
def test_nothing_there(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match=what):
        load_dataset("imagefolder", "train", root=tmp_path / what)


def test_the_folder_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WASSKIT_DATA", str(tmp_path))
    with pytest.raises(UserError, match="--data-root"):
        load_dataset("imagefolder", "train")
    write(tmp_path / "imagefolder" / "a" / "1.png")
    assert len(load_dataset("imagefolder", "train")) == 1


def test_damaged_images_are_named_and_counted(pets: Path) -> None:
    whole = (pets / "cat" / "3.jpg").read_bytes()
    (pets / "cat" / "3.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (pets / "dog" / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 16 images.*3\.jpg.*1\.jpg.*--corrupt skip"):
        load_folder(pets)
    kept = load_folder(pets, corrupt="skip")
    assert counts(kept) == [9, 4, 1]
    assert [Path(bad.path).name for bad in kept.skipped] == ["3.jpg", "1.jpg"]
    assert any("2 unreadable" in note for note in kept.notes)
    with pytest.raises(UserError, match=r"2 of 16"):
        to_memory(load_folder(pets, scan=False), 8)


def test_a_scan_finds_what_decoding_finds(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.jpg", (40, 50)) for i in range(100)]
    for path in paths[::10]:
        path.write_bytes(path.read_bytes()[:-60])
    found = scan_images(load_folder(tmp_path, scan=False), threads=3)
    assert [Path(bad.path) for bad in found.values()] == sorted(paths[::10])


@pytest.mark.parametrize("heading", ["", "path,label\n", "\ufefffile,Label\n"])
def test_a_table_of_paths_and_labels(pets: Path, heading: str) -> None:
    (pets / "labels.csv").write_text(f"{heading}cat/0.jpg,10\n\ncat/1.jpg, 9\ndog/0.jpg,\n", encoding="utf-8")
    data = load_folder(pets / "labels.csv")
    assert data.classes == ("9", "10"), "numbers in the order of their values"
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, -1]
    assert len(load_folder(pets)) == 3, "a table in the folder goes before the folder"


def test_a_table_with_splits(pets: Path) -> None:
    (pets / "images.csv").write_text(
        "path,label,split\ncat/0.jpg,c,train\ncat/1.jpg,c,valid\ndog/0.jpg,d,Train\n".lower()
    )
    assert counts(load_folder(pets, "train")) == [1, 1]
    assert counts(load_folder(pets, "val")) == [1, 0]
    with pytest.raises(UserError, match="'test'"):
        load_folder(pets, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat/0.jpg,c\nlost.jpg,c\n", r"1 of 2 images cannot be read: .*lost\.jpg \(no such file\)"),
        ("cat/0.jpg,c\ncat/1.jpg\n", "line 2"),
        ("path,label\n", "no rows"),
        ("cat/0.jpg,c,tomorrow\n", "tomorrow"),
        ("path;label\ncat/0.jpg;1\n", "separated by ';'"),
        ("path\tlabel\ncat/0.jpg\t1\n", "separated by"),
        ("path,species\ncat/0.jpg,cat\n", "columns path, species, none of them for labels"),
        ("path,label,class\ncat/0.jpg,a,b\n", "more than one column for the label"),
        ("path,label\ncat/0.jpg,a\ncat/0.jpg,b\n", "lines 2 and 3 name the same image"),
        ("path,label\ncat/0.jpg,a\ndog/../cat/0.jpg,b\n", "lines 2 and 3 name the same image"),
        ("path,label\n,a\n", "line 2 names no image"),
    ],
)
def test_bad_tables(pets: Path, text: str, message: str) -> None:
    (pets / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load_folder(pets / "t.csv")


def test_a_table_in_another_encoding(pets: Path) -> None:
    (pets / "t.csv").write_bytes("cat/ü.jpg,c\n".encode("latin1"))
    with pytest.raises(UserError, match=r"t\.csv.*UTF-8"):
        load_folder(pets / "t.csv")


def test_rows_without_a_file_can_be_left_out(pets: Path) -> None:
    (pets / "t.csv").write_text("cat/0.jpg,c\nlost.jpg,d\n")
    kept = load_folder(pets / "t.csv", corrupt="skip")
    assert (len(kept), len(kept.skipped)) == (1, 1)
    (pets / "t.csv").write_text("lost.jpg,d\n")
    with pytest.raises(UserError, match="no images"):
        load_dataset("imagefolder", "all", root=pets / "t.csv", corrupt="skip")


def test_real_folders(data_root: Path) -> None:
    faces = load_folder(data_root / "orl_faces" / "att_faces", channels=1)
    assert (len(faces), len(faces.classes)) == (400, 40)
    assert faces.image(0).size == (92, 112)
    held = to_memory(faces, 32)
    assert held.images is not None
    assert held.images.shape == (400, 1, 32, 32)


@pytest.mark.parametrize(
    "heading", ["path,label", "label,path", ",path,label", "filename,class", "image_path,target", "Image, Labels", ""]
)
def test_csv_columns_are_found_by_their_heading(pets: Path, heading: str) -> None:
    values = {"cat": "cat/0.jpg", "dog": "dog/0.jpg"}
    table = pets / "some.csv"
    names = [name.strip().lower() for name in heading.split(",")] if heading else ["path", "label"]

    def row(number: int, label: str) -> str:
        cells = {"": str(number), "label": label, "class": label, "target": label, "labels": label}
        return ",".join(cells.get(name, values[label]) for name in names)

    lines = ([heading] if heading else []) + [row(i, label) for i, label in enumerate(values)]
    table.write_text("\n".join(lines))
    dataset = load_folder(table)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.paths is not None
    assert dataset.paths[0] == pets / "cat/0.jpg"


def test_a_label_called_image_is_no_heading(pets: Path) -> None:
    table = pets / "some.csv"
    table.write_text("cat/0.jpg,image\ndog/0.jpg,drawing\n")
    assert load_folder(table).classes == ("drawing", "image")


def test_numbered_classes_come_in_numerical_order(pets: Path) -> None:
    files = [f"cat/{i}.jpg" for i in range(4)]
    for labels, order in (
        (("10", "9", "-1", "2"), ("-1", "2", "9", "10")),
        (("10.0", "9.0", "2.5", "2.0"), ("2.0", "2.5", "9.0", "10.0")),
        (("--1", "10", "9", "b"), ("--1", "10", "9", "b")),
    ):
        (pets / "some.csv").write_text("".join(f"{f},{c}\n" for f, c in zip(files, labels, strict=True)))
        assert load_folder(pets / "some.csv").classes == order


@pytest.mark.parametrize("split", ["", ",train"])
def test_an_image_that_a_csv_names_twice_counts_once(pets: Path, split: str) -> None:
    files = sorted(str(path.relative_to(pets)) for path in pets.rglob("*.jpg"))
    rows = [f"{again}{file},{file.split('/')[0]}{split}" for again in ("", "./", "cat/../") for file in files]
    (pets / "some.csv").write_text("\n".join(rows))
    everything = load_folder(pets / "some.csv")
    assert everything.paths is not None
    assert [path.relative_to(pets).as_posix() for path in everything.paths] == files
    assert f"{2 * len(files)} rows of" in everything.notes[0]
    if not split:
        parts = [load_folder(pets / "some.csv", part) for part in ("train", "test")]
        seen = [path.resolve() for part in parts for path in part.paths or ()]
        assert len(seen) == len(set(seen)) == len(files)
