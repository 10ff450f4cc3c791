"""``wasskit mrl index create``, ``add``, ``delete``, ``compact`` and ``show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, CommandOptions, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions
from wasskit.plugins.mrl.search.options import IndexCommandOptions, ids_option, model_option
from wasskit.trained.vectors import FILES

if TYPE_CHECKING:
    from wasskit.plugins.mrl.search.index import PrefixIndex

_VECTORS = f"Embeddings ({FILES}), or, with a model on images, a folder of images, an image or a CSV of path,label."
_IDS = "Their ids, whole numbers or texts"


@dataclass(frozen=True, kw_only=True)
class MrlIndexCreate(CommandOptions):
    """Options of ``wasskit mrl index create``."""

    files: OverwriteOptions = OverwriteOptions()
    vectors: Path = argument(help=_VECTORS, complete=complete_local_paths, metavar="VECTORS|IMAGES")
    ids: Path | None = ids_option(_IDS, without="the numbers of rows, the paths of images")
    dim: int | None = option(
        None, help="Numbers of a prefix.", panel="Method", min=1, show_default="64, or all where there are fewer"
    )
    code: Literal["float32", "float16", "int8", "binary"] = option(
        "int8", help="What is stored of each number of a prefix: 4 bytes, 2, 1 or a bit.", panel="Method"
    )
    axes: Literal["principal", "given"] = option(
        "principal", help="A prefix is the first principal components, or the first numbers as given.", panel="Method"
    )
    method: Literal["exhaustive", "hnsw", "ivf"] = option(
        "exhaustive", help="How a shortlist is found: all codes are compared, or by faiss (wasskit[faiss]).",
        panel="Method",
    )  # fmt: skip
    recall: float = option(
        0.98, help="Share of the 10 nearest that a search is to find; the shortlist for it is measured on some rows "
        "(0: it is not, and is 200).", panel="Method", min=0, below=1,
    )  # fmt: skip
    model: Path | None = model_option(
        "Model of `mrl adapt`, which embeddings and queries go through, or model on images, for queries that are "
        "images; a copy is kept with the index.", without="none",
    )  # fmt: skip
    output: Path | None = option(
        None, help="Folder of the index.", panel="Output", short="-o", complete=complete_local_paths,
        show_default="the file's name with .index",
    )  # fmt: skip


def create(config: MrlIndexCreate, invocation: Invocation) -> Mapping[str, Any]:
    import time

    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.models import Encoder
    from wasskit.plugins.mrl.search.report import told_index

    began = time.perf_counter()
    encoder = None if config.model is None else Encoder.open(config.model)
    vectors, ids = _read(config.vectors, config.ids, encoder)
    folder = config.output or Path(f"{Path(str(config.vectors).partition(':')[0]).stem or 'embeddings'}.index")
    index = PrefixIndex.create(
        folder, vectors, ids=ids, dim=config.dim, code=config.code, axes=config.axes, method=config.method,
        model=config.model, recall=config.recall, overwrite=config.files.overwrite,
    )  # fmt: skip
    return told_index(index, following=True) | {"seconds": time.perf_counter() - began}


def _read(path: Path, ids: Path | None, encoder: Any) -> tuple[Any, Any]:
    """The vectors of a file of embeddings or of images, and their ids (None: to be numbered)."""
    from wasskit.data.embeddings import is_embeddings, open_embeddings, read_column

    if is_embeddings(path):
        vectors = open_embeddings(path)
        return vectors, None if ids is None else read_column(ids, vectors, what="ids")
    if encoder is None:
        raise UserError(f"{path} is no file of embeddings ({FILES}): of images, give the --model that embeds them.")
    vectors, names = encoder.images(path)
    return vectors, names if ids is None else read_column(ids, vectors, what="ids")


@dataclass(frozen=True, kw_only=True)
class MrlIndexAdd(IndexCommandOptions):
    """Options of ``wasskit mrl index add``."""

    vectors: Path = argument(help=_VECTORS, complete=complete_local_paths, metavar="VECTORS|IMAGES")
    ids: Path | None = ids_option(_IDS, without="the next numbers, the paths of images")
    model: Path | None = model_option("Model that they go through.", without="the one of the index")


def add(config: MrlIndexAdd, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.report import told_change

    index = PrefixIndex(config.on.index, model=config.model)
    added = index.add(*_read(config.vectors, config.ids, index.encoder))
    return told_change(index, "Added", len(added), config.json)


@dataclass(frozen=True, kw_only=True)
class MrlIndexDelete(IndexCommandOptions):
    """Options of ``wasskit mrl index delete``."""

    names: tuple[str, ...] = argument((), help="Ids of the embeddings to delete.", metavar="[ID]...")
    ids: Path | None = ids_option("Ids from a file", without="none")


def delete(config: MrlIndexDelete, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.data.embeddings import read_column
    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.report import told_change

    if bool(config.names) == (config.ids is not None):
        raise UserError("name the ids to delete, or a file of them by --ids: one of the two.")
    index = PrefixIndex(config.on.index)
    ids: Any = list(config.names) if config.ids is None else read_column(config.ids, what="ids")
    if config.ids is None and not index.description.text_ids:
        ids = [_number(word, index) for word in config.names]
    return told_change(index, "Deleted", index.delete(ids), config.json)


def _number(word: str, index: PrefixIndex) -> int:
    try:
        number = int(word)
    except ValueError:
        number = 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise UserError(f"the ids of {index.path} are whole numbers, not {word[:80]!r}.")
    return number


@dataclass(frozen=True, kw_only=True)
class MrlIndexCompact(IndexCommandOptions):
    """Options of ``wasskit mrl index compact``."""


def compact(config: MrlIndexCompact, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.report import told_index

    index = PrefixIndex(config.on.index)
    index.compact()
    return told_index(index)


@dataclass(frozen=True, kw_only=True)
class MrlIndexShow(IndexCommandOptions):
    """Options of ``wasskit mrl index show``."""


def show(config: MrlIndexShow, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.report import told_index

    return told_index(PrefixIndex(config.on.index))


commands: dict[str, Command[Any]] = {
    "index create": Command(
        "mrl index create",
        MrlIndexCreate,
        create,
        "Make an index of embeddings.\n\n"
        "Codes of short prefixes of all rows find a shortlist, the whole vectors rank it by cosine. The codes should "
        "fit into the memory, 64 bytes of a row by default; the vectors are kept with the index, on the disk. How long "
        "a shortlist must be is measured on rows that search among all others.",
        (
            "wasskit mrl index create embeddings.npy",
            "wasskit mrl index create train.npy --ids names.txt --dim 128 --code binary -o train.index",
            "wasskit mrl index create train.npy --model runs/mrl/train",
            "wasskit mrl index create photos/ --model runs/mrl/digits",
        ),
    ),
    "index add": Command(
        "mrl index add",
        MrlIndexAdd,
        add,
        "Add embeddings to an index.\n\n"
        "They go through the model that the index remembers. Added rows are searched as all others; an index that has "
        "grown to four times its first size learns its code anew.",
        (
            "wasskit mrl index add train.index more.npy",
            "wasskit mrl index add train.index more.npy --ids more.csv:name",
        ),
    ),
    "index delete": Command(
        "mrl index delete",
        MrlIndexDelete,
        delete,
        "Delete embeddings from an index by their ids.\n\n"
        "They are found no longer; `mrl index compact` frees their place on the disk.",
        ("wasskit mrl index delete train.index 17 42", "wasskit mrl index delete train.index --ids old.txt"),
    ),
    "index compact": Command(
        "mrl index compact",
        MrlIndexCompact,
        compact,
        "Write an index anew, without what was deleted.\n\n"
        "Worth its time after many additions or deletions. Meanwhile there must be room for both on the disk.",
        ("wasskit mrl index compact train.index",),
    ),
    "index show": Command(
        "mrl index show", MrlIndexShow, show, "Show what an index holds.", ("wasskit mrl index show train.index",)
    ),
}
