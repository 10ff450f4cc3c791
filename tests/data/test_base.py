"""Reading images of every mode, and the one interface of all sets."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from wasskit.data.base import ImageDataset, PathTable, UnreadableImage, read_image
from wasskit.data.decode import to_memory
from wasskit.errors import UserError


def pixel(path: Path, channels: int = 3) -> object:
    return read_image(path, channels).getpixel((0, 0))


def test_modes_become_eight_bit(tmp_path: Path) -> None:
    grey16 = Image.fromarray(np.full((4, 5), 0x8080, dtype=np.uint16))
    grey16.save(tmp_path / "grey16.png")
    assert pixel(tmp_path / "grey16.png") == (128, 128, 128)
    assert pixel(tmp_path / "grey16.png", 1) == 128
    Image.fromarray(np.full((4, 5), 0.2, dtype=np.float32)).save(tmp_path / "float.tiff")
    assert pixel(tmp_path / "float.tiff", 1) == 51
    Image.new("L", (4, 5), 77).save(tmp_path / "grey.jpg", quality=100)
    assert pixel(tmp_path / "grey.jpg") == (77, 77, 77)
    Image.new("RGBA", (4, 5), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert pixel(tmp_path / "clear.png") == (255, 255, 255), "transparent is white, not what it hides"
    Image.new("RGBA", (4, 5), (10, 20, 30, 255)).save(tmp_path / "opaque.png")
    assert pixel(tmp_path / "opaque.png") == (10, 20, 30)
    Image.new("LA", (4, 5), (90, 255)).save(tmp_path / "la.png")
    assert pixel(tmp_path / "la.png") == (90, 90, 90)
    palette = Image.new("P", (4, 5), 0)
    palette.putpalette([9, 8, 7] * 256)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "hidden.gif", transparency=0)
    assert pixel(tmp_path / "palette.png") == (9, 8, 7)
    assert pixel(tmp_path / "hidden.gif") == (255, 255, 255)
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(tmp_path / "cmyk.jpg", quality=100)
    cmyk = np.asarray(read_image(tmp_path / "cmyk.jpg"))
    assert cmyk.shape == (16, 16, 3)
    assert int(cmyk.max()) <= 2, "full black ink is black"
    Image.new("1", (4, 5), 1).save(tmp_path / "bit.png")
    assert pixel(tmp_path / "bit.png") == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_photographs_are_set_upright(tmp_path: Path, mode: str, orientation: int) -> None:
    """As viewers show them: Pillow's own function is the reference."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    notes = Image.Exif()
    notes[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(tmp_path / "phone.png", exif=notes)
    with Image.open(tmp_path / "phone.png") as stored:
        assert stored.size == (6, 4)
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "phone.png")), np.asarray(upright))
    by_number = ImageDataset("x", "all", (), reader=lambda _: Image.open(tmp_path / "phone.png"), size=1)
    np.testing.assert_array_equal(np.asarray(by_number.image(0)), np.asarray(upright))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_in_memory_are_turned_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"phone.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    notes = Image.Exif()
    notes[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=notes)
    held = to_memory(ImageDataset("x", "all", (), paths=[path], image_size=5)).images
    assert held is not None
    np.testing.assert_array_equal(held[0].permute(1, 2, 0).numpy(), np.asarray(read_image(path)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_notes_of_the_camera_cost_no_image(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f nothing")
    assert read_image(tmp_path / "a.jpg").size == (6, 4)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "really.jpg")
    assert pixel(tmp_path / "really.jpg") == (1, 2, 3)


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "head", "tail", "folder"])
def test_unreadable_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cat.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    if damage in ("absent", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "absent":
        path.write_bytes({"empty": b"", "text": b"no image", "head": content[:30], "tail": content[:-900]}[damage])
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    assert "cat.jpg" in str(caught.value)
    assert caught.value.exit_code == 2


def test_path_table_keeps_paths_and_survives_pickling() -> None:
    paths = [Path("a/b.jpg"), Path("ü/ß.png"), Path("c")]
    table = pickle.loads(pickle.dumps(PathTable(paths)))
    assert list(table) == paths
    assert table[-1] == paths[-1]
    assert table[1:] == paths[1:]
    assert table.index(paths[1]) == 1
    with pytest.raises(IndexError):
        table[3]
    assert list(PathTable([])) == []


def test_images_come_back_from_memory() -> None:
    images = torch.randint(0, 256, (3, 3, 5, 5), dtype=torch.uint8)
    data = ImageDataset("x", "train", "ab", labels=torch.tensor([0, 1, 0]), images=images)
    assert np.array_equal(np.asarray(data.image(2)), images[2].permute(1, 2, 0).numpy())
    grey = ImageDataset("x", "train", "ab", labels=torch.tensor([0, 1, 0]), images=images[:, :1])
    assert grey.image(0).mode == "L"
    with pytest.raises(IndexError):
        data.image(3)


def test_subset_keeps_order_and_classes() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    data = ImageDataset("x", "train", "abc", labels=torch.tensor([0, 1, 2, 1]), images=images)
    part = data.subset([3, 0])
    assert part.labels is not None
    assert part.labels.tolist() == [1, 0]
    assert part.images is not None
    assert part.images[:, 0, 0, 0].tolist() == [3, 0]
    assert part.classes == ("a", "b", "c")
    with pytest.raises(IndexError):
        data.subset([4])


def test_chosen_classes_are_renumbered() -> None:
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    data = ImageDataset("x", "train", "abc", labels=torch.tensor([0, 1, 2, 1, -1]), images=images)
    chosen = data.select_classes([2, 1])
    assert chosen.classes == ("c", "b")
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [1, 0, 1]
    with pytest.raises(UserError):
        ImageDataset("x", "train", "", images=images).select_classes([0])


def test_resizing_constant_images_keeps_them() -> None:
    images = torch.tensor([0, 7, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    small = ImageDataset("x", "train", "", images=images).resized(5)
    assert small.images is not None
    assert small.images.shape == (3, 1, 5, 5)
    assert small.images.flatten(1).float().mean(1).tolist() == [0, 7, 255]


def test_inconsistent_sets_cannot_be_made() -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="disagree"):
        ImageDataset("x", "train", "a", labels=torch.zeros(2), images=images)
    with pytest.raises(ValueError, match="exactly one"):
        ImageDataset("x", "train", "a", images=images, paths=[Path("p")] * 3)
    with pytest.raises(ValueError, match="uint8"):
        ImageDataset("x", "train", "a", images=images.float())
