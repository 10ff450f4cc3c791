"""Small sound files of every kind that is read, and what reads them: the declared readers, and what stands on them."""

from __future__ import annotations

import bz2
import functools
import gzip
import importlib
import importlib.util
import io
import json
import pickle
import pkgutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms

import wasskit
from wasskit.system.readers import READERS, reading


@dataclass(frozen=True)
class Case:
    """Files of a kind and one that reads them.

    Args:
        kind: of the changes, see ``mutations.STRUCTURED``.
        name: of the file, under which ``read`` expects it.
        seeds: sound contents of the file.
    """

    label: str
    kind: str
    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]


def import_all() -> None:
    """Import every module, so that every reader is declared."""
    for module in pkgutil.walk_packages(wasskit.__path__, "wasskit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def cases(folder: Path) -> list[Case]:
    """All cases; ``folder`` is for files on the way."""
    import_all()
    return [*_of_readers(folder), *_of_commands(folder)]


# --- Contents ---------------------------------------------------------------------------------------------------------


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _parquet() -> bytes:
    import pyarrow.parquet

    out = io.BytesIO()
    table = pyarrow.table({"label": ["a", "b", "c"], "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
    pyarrow.parquet.write_table(table, out, row_group_size=2)
    return out.getvalue()


def _graph() -> bytes:
    import faiss

    index = faiss.IndexHNSWFlat(4, 8)
    index.add(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    return bytes(faiss.serialize_index(index))


def _torch(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _picture(suffix: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(pixels, 2, 0), 2, 1)).convert(mode)
    image.save(out, Image.registered_extensions()[suffix], **options)
    return out.getvalue()


def _idx(*shape: int) -> bytes:
    body = np.random.default_rng(0).integers(0, 9, shape, dtype=np.uint8).tobytes()
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def _mat() -> bytes:
    from scipy.io import savemat

    rows = np.zeros((1, 3), dtype=[("fname", object), ("class", object)])
    for i in range(3):
        rows[0, i] = (f"{i}.jpg", i + 1)
    out = io.BytesIO()
    names = np.array([f"car {i}" for i in range(4)], dtype=object)
    savemat(out, {"annotations": rows, "class_names": names}, do_compression=True)
    return out.getvalue()


_TOML = b"""command = "mrl train"
title = "A recipe"
[options]
dataset = "digits"
epochs = 3
lr = 0.05
dims = [8, 16, "x"]
[paper]
source = 'A paper'
metrics = { "test/top1" = 91.2, "test/top1@8" = 9e1 }
"""
_METRICS = b"epoch,step,split,metric,value\n0,0,test,top1,1.5\n1,7,train,loss,0.25\n1,7,test,top1@8,nan\n"
_JSON = json.dumps(
    {
        "steps": 3,
        "test": {"top1": 98.5, "spectrum": [0.5, -1.0, None]},
        "rows": [{"name": "a", "flops": 10, "top1": 0.5}, {"name": "b", "flops": 20, "top1": 0.75, "text": "x"}],
    }
).encode()
_TABLE = b'path,label,split\na.png,cat,train\n"b,c.png",dog,test\nd.png,,val\n'


def _pictures() -> tuple[bytes, ...]:
    return (
        _picture(".jpg"), _picture(".png"), _picture(".png", "P"), _picture(".png", "RGBA"), _picture(".gif", "P"),
        _picture(".bmp"), _picture(".ppm"), _picture(".webp"), _picture(".tif"),
        _picture(".tif", compression="tiff_deflate"), _picture(".tif", compression="jpeg"), _picture(".jp2"),
    )  # fmt: skip


def _pickles() -> tuple[bytes, ...]:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9], b"batch_label": b"x", "filenames": ["a", "b"]}
    return (*(pickle.dumps(batch, protocol) for protocol in (2, 4, 5)), pickle.dumps({"label_names": ["a"]}, 2))


def _pack(labelled: bool) -> bytes:
    from wasskit.data.formats.pack import PackHeader

    header = PackHeader(
        source="x", split="train", images="", count=70, channels=3, side=2, image_size=2, mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25), classes=("a", "b") if labelled else (), labelled=labelled,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, 70 * 12, dtype=np.uint8).tobytes()
    labels = (np.arange(70) % 3 - 1 if labelled else np.full(70, -1)).astype("<i8").tobytes()
    sums = [zlib.crc32(part) for part in (pixels[: 64 * 12], pixels[64 * 12 :], labels)]
    return header.encoded() + pixels + labels + struct.pack("<3I", *sums)


# --- The declared readers ---------------------------------------------------------------------------------------------


def _of_readers(folder: Path) -> Iterator[Case]:
    numbers = np.arange(12.0).reshape(4, 3)
    state = {"net.weight": torch.arange(6.0).reshape(2, 3), "net.count": torch.tensor(3)}
    weights = (_torch(state), _torch({"state_dict": state, "epoch": 3, "names": ["a", (1, 2.0)]}))
    seeds: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
        "system.documents.read_text": ("text", "x.txt", (b"1 a.png\n2 b.png\n",)),
        "system.documents.read_json": ("json", "x.json", (_JSON,)),
        "system.documents.read_toml": ("text", "x.toml", (_TOML,)),
        "system.documents.read_csv_rows": ("text", "x.csv", (_TABLE,)),
        "data.base._decode": ("bytes", "x.png", _pictures()),
        "data.formats.idx.read_idx": ("gzip", "x.gz", (gzip.compress(_idx(3, 4, 4)), gzip.compress(_idx(5)))),
        "data.formats.libsvm.read_libsvm": ("bz2", "x.bz2", (bz2.compress(b"3 1:-1.0 4:0.5 \n10 2:0.25\n"),)),
        "data.formats.matlab.read_mat": ("mat", "x.mat", (_mat(),)),
        "system.arrays.read_array": ("npy", "x.npy", (_npy(numbers), _npy(np.zeros(3, bool)), _npy(numbers.T))),
        "system.arrays.map_array": ("npy", "x.npy", (_npy(numbers), _npy(numbers.astype(np.float16).T))),
        "data.formats.csv_vectors.read_csv_vectors": ("text", "x.csv", (b"id,a,b\nx,1,2.5\ny,3,-4e1\n", b"1,2\n3,4\n")),
        "system.arrays.read_archive": ("npz", "x.npz", (_npz(a=numbers, b=np.int64(3)),)),
        "data.sets.stl10._read_stl10_labels": ("bytes", "x.bin", (b"\1\2\3",)),
        "data.sets.stl10._read_stl10_images": ("bytes", "x.bin", (b"\1" * 27648,)),
        "data.formats.pickles.read_pickle": ("pickle", "x", _pickles()),
        "models.weights.read_safetensors": ("safetensors", "x.safetensors", (_safetensors(folder, state),)),
        "models.weights.read_torch": ("torch", "x.pth", weights),
        "training.checkpoint.check_whole": ("torch", "x.pt", weights),
        "training.metrics_csv._parse_metrics": ("text", "metrics.csv", (_METRICS,)),
        "data.pairs.read_pairs": (
            "text",
            "x.csv",
            (b"query,document,relevance\na,b,2\nc,d,0.5\n", b"document,query\n1,2\n"),
        ),
        "plugins.plot.clouds.read_colours": ("bytes", "x.png", _pictures()),
        "plugins.plot.html.read_image": ("bytes", "x.png", _pictures()),
        "data.photographs.read_pixels": ("bytes", "x.tif", _pictures()),
        "data.photographs.pixel_count": ("bytes", "x.tif", _pictures()),
        "data.formats.pack.read_pack": ("bytes", "train.pack", (_pack(False), _pack(True))),
    }
    if importlib.util.find_spec("tifffile") is not None:
        seeds["data.photographs._first_page"] = ("tiff", "x.tif", (_picture(".tif"),))
    if importlib.util.find_spec("pyarrow") is not None:
        for name in ("open_parquet", "read_parquet_column"):
            seeds[f"data.formats.parquet.{name}"] = ("bytes", "x.parquet", (_parquet(),))
    graph = _graph() if importlib.util.find_spec("faiss") is not None else b""
    if graph:
        seeds["plugins.mrl.search.graphs.read_graph"] = ("bytes", "x.faiss", (graph,))
    further = {
        "plugins.mrl.search.graphs.read_graph": (50, 4, zlib.crc32(graph)),
        "data.formats.parquet.read_parquet_column": ("label",),
        "data.base._decode": (3,),
        "data.formats.libsvm.read_libsvm": (256,),
    }
    for name, (kind, file, contents) in seeds.items():
        function = READERS[f"wasskit.{name}"].function
        extra = further.get(name, ())
        yield Case(name, kind, file, contents, functools.partial(_with, function, extra))
    for kind, suffix, options in (
        ("png", ".png", {}),
        ("tiff", ".tif", {}),
        ("tiff", ".tif", {"compression": "tiff_lzw"}),
    ):
        picture = (_picture(suffix, **options),)
        for name in ("data.base._decode", "data.photographs.read_pixels"):
            read = READERS[f"wasskit.{name}"].function
            extra = further.get(name, ())
            label = f"{name} of {kind} {options or ''}"
            yield Case(label, kind, f"x{suffix}", picture, functools.partial(_with, read, extra))
    yield Case("plain idx", "idx", "x", (_idx(2, 3, 3),), READERS["wasskit.data.formats.idx.read_idx"].function)


def _with(read: Callable[..., object], extra: tuple[Any, ...], path: Path) -> object:
    return read(path, *extra)


def covered(found: list[Case]) -> set[str]:
    """The declared readers that have a case of their own; those of a library that is not here count as covered."""
    names = {f"wasskit.{case.label}" for case in found}
    absent = set() if importlib.util.find_spec("tifffile") else {"wasskit.data.photographs._first_page"}
    if importlib.util.find_spec("faiss") is None:
        absent.add("wasskit.plugins.mrl.search.graphs.read_graph")
    if importlib.util.find_spec("pyarrow") is None:
        absent |= {f"wasskit.data.formats.parquet.{name}" for name in ("open_parquet", "read_parquet_column")}
    return names | absent


def _safetensors(folder: Path, state: dict[str, torch.Tensor], header: dict[str, Any] | None = None) -> bytes:
    from wasskit.models.export import save_weights

    save_weights(folder / "w.safetensors", state, header or {"kind": "mrl"})
    return (folder / "w.safetensors").read_bytes()


def _plain_safetensors() -> bytes:
    from safetensors.torch import save

    return save({"vectors": torch.arange(12.0).reshape(4, 3)})


# --- What stands on them ----------------------------------------------------------------------------------------------


def _of_commands(folder: Path) -> Iterator[Case]:
    yield from _of_tables()
    yield from _of_models(folder)
    yield _of_checkpoints(folder)


def _profiles() -> tuple[bytes, ...]:
    """Colour profiles, the first under another name than sRGB, so that it is converted from."""
    content = {name: ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB")}
    return (content["sRGB"].replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be")), content["LAB"])


def _convert(path: Path) -> object:
    """A picture converted from a colour profile; bounded where one is read, by the reader of the picture."""
    from wasskit.data.photographs import in_srgb

    image = Image.new("RGB", (4, 4), (200, 100, 50))
    image.info["icc_profile"] = path.read_bytes()
    with reading(path, "colour profile", advice="get it again"):
        return in_srgb(image)


def _read_set(path: Path) -> object:
    """The images of a pack as a loader takes them."""
    from wasskit.data.registry import load_dataset

    dataset = load_dataset("packed", "train", root=path.parent)
    assert dataset.packed is not None
    return dataset.packed.rows(torch.arange(min(len(dataset), 4)))


def _columns() -> tuple[bytes, ...]:
    return tuple(_npy(np.array(values)) for values in ([3, 1, 3], [3.0, 1.0, 3.0], ["dog", "cat", "\U0001f408"]))


def _of_tables() -> Iterator[Case]:
    from wasskit.data.embeddings import class_numbers, open_embeddings, read_column
    from wasskit.data.folder import read_csv
    from wasskit.data.sets.cars import _annotated
    from wasskit.data.sets.cars import _mat as read_annotations
    from wasskit.data.sets.cifar import read_batch
    from wasskit.data.sets.cifar10_jpeg import _decode_blob
    from wasskit.data.toy import load_points
    from wasskit.plugins.plot.files import cost_tables, read_rows
    from wasskit.plugins.plot.groups import group_runs
    from wasskit.plugins.plot.runs import read_run
    from wasskit.plugins.plot.sources import palettes_of, spectra_of, transports_of
    from wasskit.recipes import parse_recipe
    from wasskit.training.run import RunDirectory

    points = np.random.default_rng(0).random((6, 3))
    jpeg = _picture(".jpg")
    blob = _npz(
        blob=np.frombuffer(jpeg * 2, np.uint8), offsets=np.array([0, len(jpeg), 2 * len(jpeg)]), labels=np.array([1, 9])
    )
    yield Case("recipe", "text", "x.toml", (_TOML,), lambda path: parse_recipe("x", path))
    yield Case("configuration", "text", "config.toml", (_TOML,), lambda path: RunDirectory.open(path.parent).options)
    yield Case("image table", "text", "x.csv", (_TABLE, b"a.png,1\nb.png,2\n"), read_csv)
    yield Case("CIFAR batch", "pickle", "x", _pickles(), lambda path: read_batch(path, "labels", 10))
    yield Case("CIFAR JPEG", "npz", "x.npz", (blob,), lambda path: _decode_blob.__wrapped__(path, 0))
    yield Case("cloud", "npy", "x.npy", (_npy(points), _npy(points.astype(np.float16))), load_points)
    yield Case("vectors", "npy", "x.npy", (_npy(points), _npy(points > 0)), lambda path: open_embeddings(path).whole())
    yield Case(
        "vectors of safetensors",
        "safetensors",
        "x.safetensors",
        (_plain_safetensors(),),
        lambda path: open_embeddings(path).rows([3, 0]),
    )
    yield Case("labels", "text", "x.csv", (_TABLE, b"label\n1\n2\n"), lambda path: class_numbers(read_column(path)))
    yield Case("labels of an array", "npy", "x.npy", _columns(), lambda path: class_numbers(read_column(path)))
    yield Case("rows", "npy", "x.npy", (_npy(points),), read_rows)
    yield Case("costs", "json", "x.json", (_JSON,), lambda path: [t.series(t.accuracies[0]) for t in cost_tables(path)])
    yield Case("spectrum", "json", "x.json", (_JSON,), spectra_of)
    yield Case("spectra", "npz", "x.npz", (_npz(a=points[0], b=points[1]),), spectra_of)
    yield Case("transport", "npz", "x.npz", (_npz(source=points, forward=points),), lambda path: transports_of([path]))
    yield Case("palette", "npz", "x.npz", (_npz(source=points, target=points),), palettes_of)
    yield Case("set of packs", "bytes", "train.pack", (_pack(True),), _read_set)
    yield Case("colour profile", "bytes", "x.icc", _profiles(), _convert)
    annotations = "annotations of cars"
    yield Case(annotations, "mat", "x.mat", (_mat(),), lambda path: _annotated(read_annotations(path), "fname", path))
    for name, kind, content in (
        ("metrics.csv", "text", _METRICS), ("summary.json", "json", _JSON), ("environment.json", "json", _JSON),
        ("evaluation.json", "json", _JSON), ("config.toml", "text", _TOML),
    ):  # fmt: skip
        yield Case(f"run with {name}", kind, name, (content,), lambda path: group_runs([read_run(path.parent)]))


def _of_models(folder: Path) -> Iterator[Case]:
    from torch import nn

    from wasskit.models.backbones import build_backbone
    from wasskit.models.icnn import DenseICNN
    from wasskit.models.weights import load_backbone_weights
    from wasskit.plugins.metrix.network import build_model as build_metrix
    from wasskit.plugins.metrix.trained import KIND as metrix_kind
    from wasskit.plugins.mrl.network import build_model as build_mrl
    from wasskit.plugins.mrl.trained import KIND as mrl_kind
    from wasskit.plugins.ssl.network import build_encoder
    from wasskit.plugins.ssl.trained import KIND as ssl_kind
    from wasskit.plugins.w2gn.core.transport import W2GN
    from wasskit.plugins.w2gn.experiments.autoencoder import Autoencoder, load_autoencoder
    from wasskit.plugins.w2gn.experiments.benchmark import benchmark_file
    from wasskit.plugins.w2gn.maps import load_map, save_map

    common: dict[str, Any] = {
        "backbone": "tiny", "stem": "auto", "dataset": "digits", "classes": ["a", "b"], "image_size": 8, "channels": 1,
        "mean": [0.5], "std": [0.25],
    }  # fmt: skip
    mrl = {**common, "kind": "mrl", "dims": [4, 8], "tied": True, "embedding": "linear"}
    built = build_mrl(mrl)
    held = nn.ModuleDict({"network": built.network, "objective": built.objective}).state_dict()
    yield Case("mrl model", "safetensors", "x.safetensors", (_safetensors(folder, held, mrl),), mrl_kind.load)
    ssl = {**common, "kind": "ssl", "method": "byol", "projector": [8, 4], "views": {"flip": 0.5, "scale": [0.1, 1.0]}}
    held = build_encoder(ssl).state_dict()
    yield Case("ssl model", "safetensors", "x.safetensors", (_safetensors(folder, held, ssl),), ssl_kind.load)
    metrix = {**common, "kind": "metrix", "pooling": "avgmax", "embedding_size": 4, "in_memory": True}
    held = build_metrix(metrix).network.state_dict()
    yield Case("metrix model", "safetensors", "x.safetensors", (_safetensors(folder, held, metrix),), metrix_kind.load)
    save_map(folder / "map.safetensors", W2GN.dense(2, hidden=(4, 4)), space="points", smooth=0.0)
    yield Case("map", "safetensors", "x.safetensors", ((folder / "map.safetensors").read_bytes(),), load_map)
    backbone = build_backbone("tiny", image_size=8, channels=1)
    contents = (_torch(backbone.state_dict()), _torch({"state_dict": backbone.state_dict(), "epoch": 3}))
    yield Case("backbone", "torch", "x.pth", contents, lambda path: load_backbone_weights(backbone, path))
    coder = Autoencoder(8, 1, 2, 4)
    yield Case(
        "autoencoder", "torch", "x.pt", (_torch(coder.state_dict()),), lambda path: load_autoencoder(coder, path)
    )
    network = DenseICNN(2, (4, 4), strong_convexity=1e-2)
    arrays = {f"v{i}.{key}": value.numpy() for i in (1, 2) for key, value in network.state_dict().items()}
    points = np.random.default_rng(0).random((6, 2))
    pair = _npz(
        centers=points[:3], maps=np.ones((3, 2, 2)), std=np.float64(0.4), mean=points[0], scale=np.float64(1.0),
        x_test=points, y_test=points, output_variance=np.float64(2.0), **arrays,
    )  # fmt: skip
    yield Case("benchmark pair", "npz", "x.npz", (pair,), lambda path: benchmark_file(path).source.draw(4, 0))


def _of_checkpoints(folder: Path) -> Case:
    """A checkpoint, resumed and trained on; the record of its run must be as before where it is refused."""
    from tests.training.toy import make_run, make_trainer
    from wasskit.errors import UserError

    run = make_run(folder / "run")
    make_trainer(run, epochs=1).fit()
    record = (run.path / "metrics.csv").read_bytes()

    def resume(path: Path) -> object:
        (run.path / "metrics.csv").write_bytes(record)
        try:
            return make_trainer(run, epochs=1).fit(resume=path)
        except UserError:
            assert (run.path / "metrics.csv").read_bytes() == record, "a refused checkpoint changed the record"
            raise

    return Case("checkpoint", "torch", "x.pt", ((run.checkpoints / "last.pt").read_bytes(),), resume)
