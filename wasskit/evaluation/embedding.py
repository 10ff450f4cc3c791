"""One pass of a network over a data set: features in memory, or on disk as ``.npy`` with a CSV of paths.

Each process encodes its own share of the samples, every sample once; results come in the order of the data set.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wasskit.distributed.collectives import gather, reduce_sum
from wasskit.distributed.group import barrier, broadcast_object, is_main
from wasskit.errors import RunFailed, UserError
from wasskit.ot.precision import Precision, autocast
from wasskit.system.arrays import write_header
from wasskit.system.files import replacing
from wasskit.text import csv_cell

Embedder = Callable[[Tensor], Tensor]


class LabelledImages(Protocol):
    """A batch of an evaluation loader."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def indices(self) -> Tensor: ...


@dataclass(frozen=True)
class Features:
    """Features (N, D) float32, labels (N,) int64 (-1 where a sample has none) and indices (N,) int64, ascending."""

    features: Tensor
    labels: Tensor
    indices: Tensor


@contextlib.contextmanager
def evaluating(*modules: object) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards every submodule is in the mode it was in."""
    trained = [m for module in modules if isinstance(module, nn.Module) for m in module.modules() if m.training]
    for module in trained:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True


def encode_batches(
    encoder: Embedder, loader: Iterable[LabelledImages], *, precision: Precision = "fp32"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features (B, D) float32, labels and indices of each batch of this process's share, on the device.

    ``encoder`` maps images (B, C, H, W) to (B, D), without gradients and in ``precision``, by autocast for ``bf16``
    and ``fp16``. A module, or a method of one, is run in evaluation mode; around any other callable use
    :func:`evaluating`. Images are laid out channels last, as convolutions on most devices run fastest.
    Raises ValueError for an unknown precision.
    """
    precision = "fp32" if precision == "float32" else precision  # type: ignore[comparison-overlap]  # its former name
    for batch in loader:
        images = batch.images
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with evaluating(encoder, getattr(encoder, "__self__", None)), autocast(images.device, precision):
            features = encoder(images)
        yield features.float(), batch.labels, batch.indices


def extract_features(
    encoder: Embedder,
    loader: Iterable[LabelledImages],
    *,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
) -> Features:
    """The features of a whole data set, in its order, on every process.

    See :func:`encode_batches`; ``device`` is where the result is kept (default: where the encoder gives it). Where the
    loader knows its ``num_samples`` and gives them in order, a process holds no more than the result and a batch.
    Raises UserError if there is no sample at all.
    """
    batches = encode_batches(encoder, loader, precision=precision)
    first = next(batches, None)
    width = _width(None if first is None else first[0])
    if width == 0:
        raise UserError("there are no images to embed: is the split empty?")
    # A process without a batch of its own has its result where the others have theirs.
    own = getattr(loader, "device", None) if first is None else first[0].device
    place = own if device is None else device
    rows, filled = torch.empty(getattr(loader, "num_samples", 0), width, device=place), 0
    labels, indices = [torch.empty(0, dtype=torch.int64, device=place) for _ in range(2)]
    known = [(labels, indices)]
    for features, *of_batch in itertools.chain([] if first is None else [first], batches):
        first, end = None, filled + len(features)
        if end > len(rows):
            rows = torch.cat([rows[:filled], rows.new_empty(max(end, 2 * filled) - filled, width)])
        rows[filled:end] = features
        filled = end
        known.append((of_batch[0].to(place), of_batch[1].to(place)))
    labels, indices = (gather(torch.cat(column)) for column in zip(*known, strict=True))
    found = gather(rows[:filled])
    del rows
    if bool((indices[1:] >= indices[:-1]).all()):
        return Features(found, labels, indices)
    order = indices.argsort()
    return Features(found[order], labels[order], indices[order])


def embedding_files(path: Path) -> tuple[Path, Path]:
    """The two files that :func:`write_embeddings` writes. Raises UserError where ``path`` is a folder."""
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; name a .npy file in it.")
    path = path if path.suffix == ".npy" else path.with_name(path.name + ".npy")
    return path, path.with_suffix(".csv")


def write_embeddings(
    path: Path,
    encoder: Embedder,
    loader: Iterable[LabelledImages],
    *,
    names: Sequence[str | Path],
    labels: Tensor | None = None,
    classes: Sequence[str] = (),
    precision: Precision = "fp32",
    dtype: Literal["float32", "float16"] = "float32",
) -> tuple[Path, Path, int]:
    """Embed a data set straight to disk: ``path`` (.npy, (N, D), row i for sample i) and a CSV beside it.

    Nothing but the current batch is in memory; read the result with ``numpy.load(path, mmap_mode="r")``.
    ``names`` has one entry per sample and becomes the CSV's column ``path``, after ``row``; ``labels`` (N,),
    if given, its column ``label``, as names of ``classes`` where there are any. All processes write their
    rows to one file, which must lie where all can reach it. Both files appear only when they are complete.
    Returns their paths and D. Raises UserError if they cannot be written.
    """
    path, table = embedding_files(path)

    def beside() -> None:
        _write_table(table, names, labels, classes)

    return (
        path,
        table,
        write_vectors(path, encoder, loader, len(names), beside, what="images", precision=precision, dtype=dtype),
    )


def write_vectors(
    path: Path,
    encoder: Embedder,
    loader: Iterable[LabelledImages],
    count: int,
    beside: Callable[[], None] = lambda: None,
    *,
    what: str = "vectors",
    precision: Precision = "fp32",
    dtype: Literal["float32", "float16"] = "float32",
) -> int:
    """The first file of :func:`write_embeddings` alone, for ``count`` samples; returns D.

    Args:
        path: ends in ``.npy``.
        beside: writes what belongs beside it, before it appears.
        what: the samples are, as sentences name them.
    """
    batches = encode_batches(encoder, loader, precision=precision)
    try:
        first = next(batches, None)
        width = _width(None if first is None else first[0])
        if width == 0:
            raise UserError(f"there are no {what} to embed: is the folder empty?")
        with contextlib.ExitStack() as stack:
            temporary = path
            if is_main():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(replacing(path))
                with temporary.open("wb") as file:
                    write_header(file, (count, width), dtype)
            temporary = broadcast_object(temporary)
            written = 0
            with temporary.open("r+b") as file:
                for features, _, indices in itertools.chain([] if first is None else [first], batches):
                    values = features.cpu().numpy().astype(dtype)
                    _write_rows(file, indices.cpu().numpy(), values, count)
                    written += len(indices)
            total = int(reduce_sum(torch.tensor(written)))
            if total != count:
                raise RunFailed(f"{total} embeddings were computed for {count} {what}: {path} was not written.")
            if is_main():
                beside()
        barrier()
    except OSError as error:
        raise UserError(f"the embeddings could not be written to {path}: {error.strerror or error}.") from error
    return width


def _width(features: Tensor | None) -> int:
    """The width of the features, also for a process whose share is empty; 0 if all are."""
    return int(gather(torch.tensor([0 if features is None else features.shape[1]])).max())


def _write_rows(file: BinaryIO, indices: NDArray[np.int64], values: NDArray[np.floating], rows: int) -> None:
    """Write rows where they belong in a .npy file of so many rows.

    Plain writes rather than a memory map: on a full disk a write raises, where a map ends the process.
    """
    if len(indices) and not 0 <= indices.min() <= indices.max() < rows:
        raise ValueError(f"sample {indices.max()} of a set of {rows}")
    file.seek(0)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run, block in zip(np.split(indices, breaks), np.split(values, breaks), strict=True):
        file.seek(start + int(run[0]) * values.shape[1] * values.itemsize)
        file.write(block.tobytes())


def _write_table(path: Path, names: Sequence[str | Path], labels: Tensor | None, classes: Sequence[str]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        if labels is None:
            writer.writerow(["row", "path"])
            writer.writerows([row, csv_cell(Path(name))] for row, name in enumerate(names))
        else:
            writer.writerow(["row", "path", "label"])
            for row, (name, label) in enumerate(zip(names, labels.tolist(), strict=True)):
                known = classes[label] if classes and label >= 0 else label
                writer.writerow([row, csv_cell(Path(name)), csv_cell(known) if label >= 0 else ""])
