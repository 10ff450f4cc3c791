"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the original Python pickles, whole or in part."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wasskit.data.base import ImageDataset
from wasskit.data.catalog import locate
from wasskit.data.registry import Request, missing_dataset, register
from wasskit.errors import UserError

# The functions by which numpy pickles arrays, under the module names of numpy 1 and 2.
_RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
_FROMBUFFER: Callable[..., Any] = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[assignment]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROMBUFFER for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    """Plain values and numpy arrays only: a pickle from the internet can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array file needs") from None


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in one file of the set, keys as str. Raises `UserError` naming a damaged or foreign
    file."""

    def load(stream: BinaryIO) -> Any:
        return _ArrayUnpickler(stream, encoding="latin1").load()

    try:
        with path.open("rb") as stream:
            content = load(stream)
    except FileNotFoundError:
        raise UserError(f"the file {path} is missing; unpack the data set again") from None
    # A truncated or altered pickle fails in nearly any way, down to MemoryError at an absurd length.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"cannot read {path}: {reason}; the file is damaged, get the data set again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it holds no dictionary, so it is no file of this data set")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()
    }


def read_batch(path: Path, label_key: str, classes: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one file."""
    content = read_pickle(path)
    data, labels = content.get("data"), content.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path} has no images: its 'data' should be N x 3072 bytes; get the data set again")
    try:
        target = np.asarray(labels, dtype=np.int64)
    except (TypeError, ValueError):
        target = np.empty(0, dtype=np.int64)
    if target.shape != (len(data),) or (len(target) and not (target.min() >= 0 and target.max() < classes)):
        raise UserError(
            f"{path} has {len(data)} images but its {label_key!r} do not fit them; get the data set again"
        )
    return data.reshape(-1, 3, 32, 32), target


def _load(
    request: Request, folder: str, files: list[str], label_key: str, meta: str, names: str
) -> ImageDataset:
    assert request.card is not None
    card = request.card
    base = locate(card, request.root)
    if base is None and request.download:
        base = _download(request)
    if base is None:
        raise missing_dataset(card, request.root)
    classes = [str(name) for name in read_pickle(base / folder / meta).get(names, [])]
    if len(classes) != card.num_classes:
        raise UserError(f"{base / folder / meta} should name {card.num_classes} classes, not {len(classes)}")
    parts = [read_batch(base / folder / file, label_key, len(classes)) for file in files]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    whole = card.counts[request.split]
    notes = (
        [] if len(labels) == whole else [f"{card.name}/{request.split}: {len(labels):,} of {whole:,} images"]
    )
    return ImageDataset(
        card.name,
        request.split,
        classes,
        labels=torch.from_numpy(labels),
        images=torch.from_numpy(images),
        mean=card.mean,
        std=card.std,
        notes=notes,
    )


def _download(request: Request) -> Path:
    from torchvision import datasets

    target = request.root / request.name
    try:
        target.mkdir(parents=True, exist_ok=True)
        {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.name](str(target), download=True)
    except Exception as error:
        raise UserError(f"downloading {request.name} to {target} failed: {error}") from error
    return target


@register("cifar10")
def cifar10(request: Request) -> ImageDataset:
    """CIFAR-10; a subset in the original format is taken as it is and its count noted."""
    files = [f"data_batch_{i}" for i in range(1, 6)] if request.split == "train" else ["test_batch"]
    return _load(request, "cifar-10-batches-py", files, "labels", "batches.meta", "label_names")


@register("cifar100")
def cifar100(request: Request) -> ImageDataset:
    """CIFAR-100 with its fine labels."""
    return _load(request, "cifar-100-python", [request.split], "fine_labels", "meta", "fine_label_names")
