"""One interface for every data set: labels without decoding, images one by one or all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wasskit.data.images import IMAGE_SUFFIXES, opened
from wasskit.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from wasskit.errors import UserError
from wasskit.system.readers import UnreadableFile, reader

if TYPE_CHECKING:
    from wasskit.data.packed import PackedImages


@dataclass(frozen=True)
class BadImage:
    """An image that is missing or cannot be decoded, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


class UnreadableImage(UserError):
    """Raised where one image cannot be read; names the file."""

    def __init__(self, bad: BadImage) -> None:
        super().__init__(f"cannot read the image {bad}; repair or remove it, or pass --corrupt skip")
        self.bad = bad


class PathTable(Sequence[Path]):
    """Many paths in two arrays instead of a million Python objects.

    A worker process that touches the reference count of a list's items copies the pages they lie on, until
    each worker holds the whole list; arrays are shared for good.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        encoded = [str(path).encode("utf-8", "surrogateescape") for path in paths]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum(np.fromiter((len(path) for path in encoded), np.int64, len(encoded)))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        return Path(self._bytes[start : int(self._ends[index])].tobytes().decode("utf-8", "surrogateescape"))


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """A split of a data set, which never changes: ``dataclasses.replace`` gives one that differs.

    Exactly one of ``images`` (uint8, (N, C, H, W), in memory), ``packed`` (squares in mapped files), ``paths`` and
    ``reader`` (``reader(i)`` gives image i) says where the images are. ``labels`` is (N,) int64 into ``classes``, -1
    where a sample has none, or None where no sample has one. ``image_size`` is the side in pixels the set is used at
    (None: all images' own), ``mean`` and ``std`` its normalisation in [0, 1]. ``margin`` says whether the evaluation of
    images on disk crops a margin, see :func:`wasskit.data.standard.eval_transform`. ``notes`` are sentences
    worth showing ("5,000 of 50,000 images"), ``skipped`` the unreadable images left out. ``size`` is N, needed
    where neither images, paths nor labels tell it.
    """

    name: str
    split: str
    classes: Sequence[str]
    _: KW_ONLY
    labels: Tensor | None = None
    images: Tensor | None = None
    packed: PackedImages | None = None
    paths: Sequence[Path] | None = None
    reader: Callable[[int], Image.Image] | None = None
    image_size: int = 224
    channels: int = 3
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    margin: bool = True
    notes: Sequence[str] = ()
    skipped: Sequence[BadImage] = ()
    size: int | None = None
    _on_device: dict[torch.device, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        images, packed, paths, labels = self.images, self.packed, self.paths, self.labels
        if sum(source is not None for source in (images, packed, paths, self.reader)) != 1:
            raise ValueError("exactly one of images, packed, paths and reader is needed")
        settled: dict[str, Any] = {
            name: tuple(getattr(self, name)) for name in ("classes", "mean", "std", "notes", "skipped")
        }
        if images is not None:
            if images.dtype != torch.uint8 or images.ndim != 4:
                raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
            settled |= {"channels": images.shape[1], "image_size": max(images.shape[2:])}
        if packed is not None:
            settled["channels"] = packed.channels
        if paths is not None and not isinstance(paths, PathTable):
            settled["paths"] = PathTable(paths)
        if labels is not None:
            settled["labels"] = labels.to(torch.int64)
        lengths = [len(source) for source in (images, packed, paths, labels) if source is not None]
        lengths += [] if self.size is None else [self.size]
        if len(set(lengths)) != 1:
            raise ValueError(f"images, labels and size disagree about the number of samples: {lengths}")
        for name, value in (settled | {"size": lengths[0]}).items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        assert self.size is not None
        return self.size

    def __repr__(self) -> str:
        return f"ImageDataset({self.name}/{self.split}: {len(self):,} images, {len(self.classes)} classes)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on_device": {}}

    @property
    def in_memory(self) -> bool:
        return self.images is not None

    @property
    def in_batches(self) -> bool:
        """Whether whole batches of images of one size can be had without decoding."""
        return self.images is not None or self.packed is not None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def image(self, index: int) -> Image.Image:
        """Image ``index``: mode L where ``channels`` is 1, else RGB. Raises `UnreadableImage`."""
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        stored = self.images[index] if self.images is not None else None
        if self.packed is not None:
            stored = self.packed.rows(torch.tensor([index]))[0]
        if stored is not None:
            array = stored.numpy()
            return Image.fromarray(array[0] if self.channels == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
        if self.paths is not None:
            return read_image(self.paths[index], self.channels)
        assert self.reader is not None
        reader = self.reader
        return _read(lambda: reader(index), f"{self.name}/{self.split} number {index}", self.channels)

    def images_on(self, device: torch.device) -> Tensor:
        """The in-memory images on a device, kept there for the next caller."""
        if self.images is None:
            raise ValueError(f"{self.name} is not in memory")
        if self.images.device == device or device.type == "cpu":
            return self.images
        if device not in self._on_device:
            self._on_device[device] = self.images.to(device)
        return self._on_device[device]

    def filled_labels(self) -> Tensor:
        """(N,) int64: the labels, -1 for every sample without one."""
        return torch.full((len(self),), -1) if self.labels is None else self.labels

    def subset(self, indices: Tensor | Sequence[int]) -> ImageDataset:
        """The samples at ``indices``, in that order; classes stay as they are."""
        index = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise IndexError(f"indices reach outside the {len(self)} samples of {self.name}/{self.split}")
        return replace(
            self,
            labels=None if self.labels is None else self.labels[index],
            images=None if self.images is None else self.images[index],
            packed=None if self.packed is None else self.packed.subset(index),
            paths=None if self.paths is None else PathTable(self.paths[i] for i in index.tolist()),
            reader=None if self.reader is None else _Reindexed(self.reader, index),
            size=len(index),
        )

    def prepared_as(self, mean: Sequence[float], std: Sequence[float], *, margin: bool) -> ImageDataset:
        """The set under the normalisation and the evaluation preprocessing of another."""
        return replace(self, mean=mean, std=std, margin=margin)

    def resized(self, size: int) -> ImageDataset:
        """The set used at another side length: in memory resampled (bicubic, antialiased), on disk decoded to it."""
        if size < 1:
            raise UserError(f"the image size must be at least 1 pixel, not {size}")
        if size == self.image_size:
            return self
        if self.packed is not None and size > self.packed.side:
            raise UserError(
                f"{self.name}/{self.split} is packed at {self.packed.side} pixels, and {size} are asked for: take a "
                "smaller --image-size, or pack it again with a larger --size"
            )
        if self.images is None:
            return replace(self, image_size=size)
        images = torch.empty((len(self), self.channels, size, size), dtype=torch.uint8)
        for low in range(0, len(self), 1024):
            part = self.images[low : low + 1024].to(torch.float32)
            part = F.interpolate(part, (size, size), mode="bicubic", align_corners=False, antialias=True)
            images[low : low + 1024] = part.round_().clamp_(0, 255)
        return replace(self, images=images)

    def select_classes(self, kept: Sequence[int]) -> ImageDataset:
        """The samples of some classes, labels renumbered 0, 1, ... in the order of ``kept``."""
        if self.labels is None:
            raise UserError(f"{self.name} has no labels, so no classes can be chosen from it")
        table = torch.full((len(self.classes) + 1,), -1)
        table[torch.as_tensor(list(kept), dtype=torch.int64)] = torch.arange(len(kept))
        relabelled = table[self.labels]
        chosen = self.subset(torch.nonzero(relabelled >= 0).reshape(-1))
        return replace(chosen, labels=relabelled[relabelled >= 0], classes=[self.classes[c] for c in kept])


class _Reindexed:
    """``reader`` seen through a list of indices; a class, not a closure, so that spawned workers can have it."""

    def __init__(self, reader: Callable[[int], Image.Image], indices: Tensor) -> None:
        self.reader = reader
        self.indices = indices

    def __call__(self, index: int) -> Image.Image:
        return self.reader(int(self.indices[index]))


def read_image(path: str | Path, channels: int = 3) -> Image.Image:
    """Decode an image file completely, upright, as mode L (``channels`` 1) or RGB; the first frame of an animation.

    Raises `UnreadableImage` for whatever keeps the pixels from being had: no file, no rights, truncated, not an image.
    """
    try:
        return _decode(Path(path), channels)
    except UnreadableFile as error:
        raise UnreadableImage(BadImage(str(path), error.reason)) from error


@reader("image", suffixes=IMAGE_SUFFIXES, advice="repair or remove it")
def _decode(path: Path, channels: int) -> Image.Image:
    with opened(path) as image:
        return to_mode(image, channels)


def _read(head: Callable[[], Image.Image], name: str, channels: int) -> Image.Image:
    try:
        with head() as image:
            return to_mode(image, channels)
    except FileNotFoundError as error:
        raise UnreadableImage(BadImage(name, "no such file")) from error
    # Damaged files make the decoders raise nearly anything (EOFError, struct.error, ZeroDivisionError, ...).
    except Exception as error:
        raise UnreadableImage(BadImage(name, str(error) or type(error).__name__)) from error


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Any PIL image as 8-bit L or RGB, turned as its camera says.

    16-bit grey is scaled (PIL alone would clip it to white), floats are read as [0, 1] where they fit in it
    and as [0, 255] otherwise, and transparent pixels are laid on white.
    """
    image.load()
    turn = _orientation(image)
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        scale = 255.0 if values.size and values.min() >= 0 and values.max() <= 1 else 1.0
        image = Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    image = image.convert("L" if channels == 1 else "RGB")
    if turn is not None:
        image = image.transpose(turn)
    # Copies keep the EXIF tags, by which the next reader would turn the image again.
    image.info = {}
    return image


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What sets an image upright that its camera stored as the sensor lay; None where nothing has to be done."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # Unreadable EXIF tags leave the pixels as they are.
    except Exception:
        return None
