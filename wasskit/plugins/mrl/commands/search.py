"""``wasskit mrl search``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions
from wasskit.plugins.mrl.search.options import IndexCommandOptions, model_option
from wasskit.trained.vectors import FILES


@dataclass(frozen=True, kw_only=True)
class MrlSearch(IndexCommandOptions):
    """Options of ``wasskit mrl search``."""

    files: OverwriteOptions = OverwriteOptions()
    queries: Path = argument(
        help=f"Embeddings ({FILES}), or, with a model on images, an image, a folder of images or a CSV of path,label.",
        complete=complete_local_paths,
        metavar="QUERIES|IMAGES",
    )
    k: int = option(10, help="Neighbours of a query.", panel="Measures", min=1, short="-k")
    shortlist: int | None = option(
        None, help="Rows whose whole vectors are compared with a query: more are slower and surer.", panel="Measures",
        min=1, max=1 << 20, show_default="as measured when the index was made",
    )  # fmt: skip
    exact: bool = option(False, help="Compare the whole vectors of all rows.", panel="Measures", flag="--exact")
    probes: int | None = option(
        None, help="Lists of an ivf, candidates of an hnsw that are looked into.", panel="Measures", min=1,
        show_default="a sixteenth of the lists, the shortlist",
    )  # fmt: skip
    model: Path | None = model_option("Model that the queries go through.", without="the one of the index")
    show: int = option(3, help="Queries whose neighbours are printed.", panel="Output", min=0)
    output: Path = option(
        Path("neighbours.csv"), help="File of all neighbours: .csv, or .npz with `ids` and `similarities`.",
        panel="Output", short="-o", complete=complete_local_paths,
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        if self.output.suffix.lower() not in (".csv", ".npz"):
            raise UserError(f"--output: {self.output} must end in .csv or .npz.")


def body(config: MrlSearch, invocation: Invocation) -> Mapping[str, Any]:
    import time

    from wasskit.data.embeddings import is_embeddings, open_embeddings
    from wasskit.plugins.mrl.search.index import PrefixIndex
    from wasskit.plugins.mrl.search.report import told_neighbours

    config.files.refuse_existing(config.output)
    index = PrefixIndex(config.on.index, model=config.model)
    names: Any = None
    if is_embeddings(config.queries):
        queries = open_embeddings(config.queries)
    elif index.encoder is None:
        raise UserError(
            f"{config.queries} is no file of embeddings ({FILES}): of images, give the --model that embeds them."
        )
    else:
        queries, names = index.encoder.images(config.queries)
    began = time.perf_counter()
    found = index.search(queries, config.k, shortlist=config.shortlist, exact=config.exact, probes=config.probes)
    seconds = time.perf_counter() - began
    names = range(len(queries)) if names is None else names
    return told_neighbours(found, names, seconds, config.output, shown=config.show)


command = Command(
    "mrl search",
    MrlSearch,
    body,
    "Find the nearest neighbours of embeddings or images in an index.\n\n"
    "Neighbours stand by falling cosine, equally near ones by their ids. They are exact but for rows that miss the "
    "shortlist; compare with --exact.",
    (
        "wasskit mrl search train.index test.npy",
        "wasskit mrl search train.index test.npy --k 100 --shortlist 1000 --output neighbours.npz",
        "wasskit mrl search photos.index photo.jpg",
    ),
)
