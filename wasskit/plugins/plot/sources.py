"""What a command's arguments stand for: a run directory with the files it holds, or a file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from wasskit import console
from wasskit.errors import UserError
from wasskit.pictures.maps import Array, Transport
from wasskit.plugins.plot.files import CostTable, cost_tables, read_arrays, read_rows, result_files, spectra_in
from wasskit.plugins.plot.metrics import choose
from wasskit.system.arrays import check_rows
from wasskit.system.documents import read_json
from wasskit.system.readers import reader

T = TypeVar("T")

_ARRAYS = (".npy", ".npz")


def read_each(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[str]]:
    """What can be read of several files, and a sentence on each that cannot."""
    found, troubles = [], []
    for path in paths:
        try:
            found.append(read(path))
        except UserError as error:
            troubles.append(str(error))
    return found, troubles


def named(sources: Iterable[Path], read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """What is found in several sources, by name; where a name comes again, with its folders'."""
    found: dict[str, T] = {}
    for source in sources:
        for name, value in read(source).items():
            found[other_name(name, source, found)] = value
    return found


def other_name(name: str, source: Path, taken: Container[str]) -> str:
    """A name of what ``source`` holds that is not ``taken``: itself, or with as many folders as that needs."""
    folder = source.resolve().parent
    while name in taken:
        name, folder = f"{folder.name}/{name}", folder.parent
    return name


def spectra_of(source: Path, *, normalise: bool = True) -> dict[str, list[float]]:
    """The spectra of a run or a file, by name.

    Raises:
        UserError: there is none, or the file cannot be read.
    """
    if source.is_dir():
        found: dict[str, list[float]] = {}
        files = [*result_files(source, "spectrum*.npz"), *result_files(source, "*.json")]
        read, troubles = read_each(files, _spectra_in_file)
        _warn(troubles)
        for spectra in read:
            for name, values in spectra.items():
                found.setdefault(name, values)
        name = source.resolve().name
        if not found:
            from wasskit.evaluation.uniformity import singular_spectrum
            from wasskit.trained.files import embeddings_of_run

            none = f"{source} holds no spectrum (no spectrum*.npz, no JSON file with a list `spectrum`)"
            try:
                rows = embeddings_of_run(source, "cpu")
            except UserError as error:
                raise UserError(f"{none}, and its test images cannot be embedded: {error}") from None
            if rows is None:
                raise UserError(f"{none}: evaluate the run first, or give its embeddings as .npy.")
            return {name: singular_spectrum(rows, normalise=normalise).tolist()}
        return {name if len(found) == 1 else f"{name} {key}": values for key, values in found.items()}
    from wasskit.data.embeddings import SUFFIXES, is_part, open_embeddings

    if not is_part(source):
        _must_exist(source)
    if source.suffix == ".json":
        spectra = _spectra_in_file(source)
        if not spectra:
            raise UserError(f"{source} holds no list of numbers under a key `spectrum`.")
        return {source.stem if len(spectra) == 1 else key: values for key, values in spectra.items()}
    if source.suffix not in SUFFIXES and not is_part(source):
        raise UserError(
            f"{source}: a spectrum is drawn from a run directory, .json, or embeddings ({', '.join(SUFFIXES)})."
        )
    if source.suffix in _ARRAYS:
        arrays = read_arrays(source)
        if all(array.ndim == 1 for array in arrays.values()):
            return {source.stem if len(arrays) == 1 else key: values for key, values in _flat(source).items()}
    from wasskit.evaluation.uniformity import singular_spectrum

    # In the type they are stored in: singular values below its rounding are left out.
    rows = open_embeddings(source, least=2).whole()
    return {source.stem: singular_spectrum(rows, normalise=normalise).tolist()}


def _spectra_in_file(path: Path) -> dict[str, list[float]]:
    if path.suffix == ".json":
        return {key or path.stem: values for key, values in spectra_in(read_json(path))}
    return _flat(path)


def _flat(path: Path) -> dict[str, list[float]]:
    found = {}
    for key, array in read_arrays(path).items():
        if array.ndim == 1 and array.size > 1:
            if np.isnan(array).any():
                raise UserError(f"{key!r} in {path} holds NaN: it is not a spectrum.")
            found[key] = array.astype(float).tolist()
    return found


def transports_of(sources: Sequence[Path]) -> list[Transport]:
    """The maps of runs and files: each run or ``.npz`` has one or several, ``.npy`` clouds together one.

    Raises:
        UserError: nothing to draw, or clouds that do not fit together.
    """
    if any(source.suffix == ".npy" for source in sources):
        if not all(source.suffix == ".npy" for source in sources) or len(sources) not in (2, 3):
            raise UserError("Clouds are two or three .npy files: SOURCE MAPPED, or SOURCE TARGET MAPPED.")
        for source in sources:
            _must_exist(source)
        clouds = [read_rows(source) for source in sources]
        name = " to ".join(source.stem for source in sources[:2])
        return [Transport(name, clouds[0], clouds[-1], clouds[1] if len(clouds) == 3 else None)]
    found: list[Transport] = []
    for source in sources:
        if source.is_dir():
            files = result_files(source, "transport*.npz")
            if not files:
                raise UserError(
                    f"{source} holds no transport*.npz: it is not a run with a transport map, or has not finished; "
                    "clouds of your own are given as .npy."
                )
            name = source.resolve().name
            maps, troubles = read_each(files, lambda path: transport_from(path.stem, read_arrays(path)))
            if not maps:
                raise UserError(troubles[0])
            _warn(troubles)
            found += [replace(m, name=name if len(maps) == 1 else f"{name} {m.name}") for m in maps]
        else:
            _must_exist(source)
            if source.suffix != ".npz":
                raise UserError(f"{source}: a map is drawn from a run directory, an .npz, or .npy clouds.")
            found.append(transport_from(str(source), read_arrays(source)))
    return found


def transport_from(name: str, arrays: Mapping[str, Array]) -> Transport:
    """A transport from the arrays of a ``transport*.npz``.

    Raises:
        UserError: there is no ``source``, or the arrays do not fit together.
    """
    if "source" not in arrays or not ({"forward", "target"} & set(arrays)):
        raise UserError(f"{name} must hold 'source' and 'forward' or 'target'; it holds {', '.join(arrays)}.")
    points = {k: arrays[k].astype(np.float64) for k in ("source", "forward", "target", "inverse") if k in arrays}
    for key, cloud in points.items():
        check_rows(cloud, f"{key!r} of {name}")
    grids = {key: arrays[key].astype(np.float64) for key in ("grid", "grid_forward") if key in arrays}
    shapes = {grid.shape for grid in grids.values()}
    if len(grids) == 2 and len(shapes) == 1 and len(next(iter(shapes))) == 3 and next(iter(shapes))[2] == 2:
        return Transport(name, **points, **grids)
    return Transport(name, **points)


def palettes_of(source: Path) -> dict[str, Array]:
    """The palettes of a run, of a file of colours, or of an image, by name.

    Raises:
        UserError: there is none, or the file cannot be read.
    """
    if source.is_dir():
        files = result_files(source, "palette*.npz")
        if not files:
            raise UserError(
                f"{source} holds no palette*.npz: it is not a run of a colour transfer, or has not finished; images "
                "are given as files."
            )
        return _palettes_in(files[0])
    _must_exist(source)
    if source.suffix == ".npz":
        return _palettes_in(source)
    if source.suffix == ".npy":
        return {source.stem: as_colours(next(iter(read_arrays(source).values())), str(source))}
    return {source.stem: read_colours(source)}


def _palettes_in(path: Path) -> dict[str, Array]:
    names = {"forward": "source, transferred", "inverse": "target, transferred back"}
    colours = {key: array for key, array in read_arrays(path).items() if array.ndim >= 2 and array.shape[-1] == 3}
    if not colours:
        raise UserError(f"{path} holds no colours of shape (N, 3).")
    order = sorted(colours, key=lambda key: {"source": 0, "forward": 1, "target": 2, "inverse": 3}.get(key, 4))
    return {names.get(key, key.replace("_", " ")): as_colours(colours[key], f"{key!r} in {path}") for key in order}


@reader("image", suffixes=(".png", ".jpg", ".tif"), advice="name another image", missing="There is no image {path}.")
def read_colours(path: Path) -> Array:
    """Colours (N, 3) in [0, 1] of an image file: pixels of a copy no larger than 512 on a side.

    Grey images are read as RGB, transparent pixels left out, 16-bit values scaled.

    Raises:
        UserError: the file is missing or no image, or has no visible pixel.
    """
    from PIL import Image, ImageFile

    from wasskit.data.images import opened

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with opened(path) as image:
        image.draft("RGB", (512, 512))
        if image.mode.startswith("I") or image.mode == "F":
            values = np.nan_to_num(np.asarray(image, dtype=np.float64))
            top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
            image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        image.thumbnail((512, 512))
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float64).reshape(-1, 4) / 255
    visible = rgba[rgba[:, 3] > 0.5, :3]
    if len(visible) == 0:
        raise UserError(f"{path} has no visible pixel: it is transparent throughout.")
    return visible


def as_colours(array: Array, where: str) -> Array:
    """Colours (N, 3) in [0, 1] from bytes or fractions. Raises ``UserError`` for other shapes or values."""
    if array.ndim < 2 or array.shape[-1] != 3 or not array.size:
        raise UserError(f"{where} has shape {array.shape}: expected colours of shape (N, 3).")
    values = array.reshape(-1, 3).astype(np.float64)
    if array.dtype == np.uint8 or (np.isfinite(values).all() and values.max() > 8):
        values = values / 255
    check_rows(values, where)
    return values.clip(0, 1)


def costs_of(source: Path, cost: str | None, metric: str | None) -> list[CostTable]:
    """The tables of accuracy against cost of a run or a JSON file, those named for retrieval first.

    Raises:
        UserError: there is none with that cost and metric.
    """
    if source.is_dir():
        files = sorted(result_files(source, "*.json"), key=lambda path: not path.stem.startswith("retriev"))
        read, troubles = read_each(files, lambda path: cost_tables(path, cost))
        _warn(troubles)
        tables = [table for found in read for table in found]
    else:
        _must_exist(source)
        tables = cost_tables(source, cost)
    if not tables:
        against = f" against {cost!r}" if cost else " against cost"
        raise UserError(f"{source} holds no results{against}: make some, for instance by `wasskit mrl retrieve RUN`.")
    if metric is not None:
        fitting = [table for table in tables if metric in table.accuracies]
        if not fitting:
            choose([metric], list(dict.fromkeys(name for table in tables for name in table.accuracies)))
        return fitting
    return tables


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no file or run directory {path}.")


def _warn(troubles: Sequence[str]) -> None:
    for trouble in troubles:
        console.warn(trouble)
