"""What answers a query and how that is counted: options, and the files that they name."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wasskit.candidates import complete_local_paths
from wasskit.config import OptionGroup, option
from wasskit.errors import UserError
from wasskit.evaluation.conventions import (
    LIBRARIES,
    Average,
    Conventions,
    Gain,
    Library,
    Lone,
    MapOver,
    PrecisionOver,
    TieRule,
)
from wasskit.trained.vectors import vector_file

if TYPE_CHECKING:
    from torch import Tensor

    from wasskit.data.pairs import Named
    from wasskit.evaluation.embedding import Features
    from wasskit.evaluation.relevance import Hidden, Relevance


def _convention(help: str) -> Any:
    return option(None, help=help, panel="Conventions", show_default="as --convention says")


def _table(help: str) -> Any:
    return option(
        None, help=help, panel="Output", complete=complete_local_paths, metavar="FILE.csv", show_default="none"
    )


@dataclass(frozen=True, kw_only=True)
class CountingOptions(OptionGroup):
    """What answers a query, what is measured of it, and by which conventions."""

    relevance: Path | None = vector_file(
        "CSV of query,document,relevance: what answers a query, in place of labels.", without="items of its class"
    )
    ids: Path | None = vector_file("Names of the queries in such files and tables.", without="row numbers from 0")
    gallery_ids: Path | None = vector_file("Names of what is searched.", without="row numbers from 0")
    exclude: Path | None = vector_file(
        "What a query does not meet: a CSV of query,document, or one column of documents that none meets."
    )
    groups: Path | None = vector_file("A group of each query, whose items it does not meet (its item, its camera).")
    gallery_groups: Path | None = vector_file("The groups of what is searched.", without="as --groups")
    group_rule: Literal["all", "class"] = option(
        "all", help="What of its group a query does not meet: all, or only items of its class too (re-identification).",
        panel="Data",
    )  # fmt: skip
    at: tuple[int, ...] = option(
        (10,), help="The K of precision@K, mAP@K, nDCG@K and found@K (share of the positives).", panel="Measures", min=1
    )
    full_ranking: bool = option(
        False, help="Also mAP and nDCG of the whole ranking, for which the gallery is sorted for every query.",
        panel="Measures", flag="--full-ranking",
    )  # fmt: skip
    similarity: Literal["cosine", "dot", "euclidean"] = option(
        "cosine", help="How queries and items are compared.", panel="Measures"
    )
    convention: Library = option(
        "wasskit", help="Count as this library does, where definitions leave a choice.", panel="Conventions"
    )
    ties: TieRule | None = _convention(
        "Of equally similar items first: pessimistic: the less relevant; optimistic: the more relevant; order: as in "
        "the file (libraries that leave it to their sort); docno: the later name (trec_eval)."
    )
    lone: Lone | None = _convention(
        "A query without a positive: zero (torchmetrics' neg, trec_eval), skip (pytorch-metric-learning), error "
        "(open-metric-learning)."
    )
    map_over: MapOver | None = _convention(
        "AP@K is divided by: least: min(R, K) of R positives (open-metric-learning); positives: R (trec_eval, "
        "pytorch-metric-learning); found: those within K (torchmetrics)."
    )
    precision_over: PrecisionOver | None = _convention(
        "precision@K is divided by: k: K (trec_eval, torchmetrics); least: min(R, K) (open-metric-learning)."
    )
    gain: Gain | None = _convention(
        "Gain of a relevance g in nDCG: linear: g (trec_eval, torchmetrics, scikit-learn); exponential: 2^g - 1."
    )
    average: Average | None = _convention(
        "Mean over queries, or over classes of their means (pytorch-metric-learning's avg_of_avgs)."
    )
    per_query: Path | None = _table("Table to write of every query: rank of its best positive, all metrics.")
    per_class: Path | None = _table("Table to write of every class: number of queries, all metrics.")

    def validate(self) -> None:
        super().validate()
        if self.group_rule == "class" and self.groups is None:
            raise UserError("--group-rule class needs the groups: name their file by --groups.")
        if self.gallery_groups is not None and self.groups is None:
            raise UserError("--gallery-groups needs the groups of the queries too: name their file by --groups.")
        for flag, path in (("--per-query", self.per_query), ("--per-class", self.per_class)):
            if path is not None and (path.suffix.lower() != ".csv" or path.is_dir()):
                raise UserError(f"{flag}: {path} is no name of a table: name a .csv file.")

    @property
    def conventions(self) -> Conventions:
        """Those of the library but for the ones that are named."""
        given = {f.name: getattr(self, f.name) for f in fields(Conventions)}
        return replace(LIBRARIES[self.convention], **{name: value for name, value in given.items() if value})

    @property
    def changed(self) -> list[str]:
        """The flags of the options that have another value than by default."""
        usual = type(self)()
        return [
            "--" + f.name.replace("_", "-") for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)
        ]


@dataclass(frozen=True)
class Judgement:
    """What answers each query, what it does not meet, and the names of the rows.

    Args:
        relevance: None: the items of its class.
    """

    relevance: Relevance | None
    hidden: Hidden
    queries: Named
    gallery: Named


def read_judgement(
    config: CountingOptions, where: tuple[str, str], test: Features, gallery: Features | None
) -> Judgement:
    """The files of the options, on the features' device; ``where`` names the queries and the gallery in sentences.

    Raises:
        UserError: a file cannot be read, or does not fit the embeddings.
    """
    from wasskit.data.embeddings import Embeddings, class_numbers, read_column
    from wasskit.data.pairs import read_named, read_pairs, rows_of_pairs
    from wasskit.evaluation.relevance import Hidden, Relevance

    place = test.features.device
    searched = test if gallery is None else gallery
    asked, items = Embeddings(where[0], test.features), Embeddings(where[1], searched.features)
    queries = read_named(config.ids, asked)
    if gallery is None:
        for flag, given in (("--gallery-ids", config.gallery_ids), ("--gallery-groups", config.gallery_groups)):
            if given is not None:
                raise UserError(f"{flag}: {where[0]} has no gallery, its queries search one another.")
    documents = queries if gallery is None else read_named(config.gallery_ids, items)
    relevance = None
    if config.relevance is not None:
        sources, found, gains = rows_of_pairs(read_pairs(config.relevance), queries, documents)
        relevance = Relevance.of_pairs(sources.to(place), found.to(place), gains.to(place), len(asked))
    pairs, everywhere = _excluded(config.exclude, queries, documents)
    groups = None
    if config.groups is not None:
        if gallery is not None and config.gallery_groups is None:
            raise UserError(f"--groups: {where[1]} needs its groups too: name their file by --gallery-groups.")
        columns = [read_column(config.groups, asked, what="groups")]
        if config.gallery_groups is not None:
            columns.append(read_column(config.gallery_groups, items, what="groups"))
        numbers = [column.to(place) for column in class_numbers(*columns)[0]]
        groups = numbers[0], numbers[-1]
    hidden = Hidden(
        pairs=None if pairs is None else (pairs[0].to(place), pairs[1].to(place)),
        items=None if everywhere is None else everywhere.to(place), groups=groups,
        labels=(test.labels, searched.labels) if config.group_rule == "class" else None,
    )  # fmt: skip
    return Judgement(relevance, hidden, queries, documents)


def _excluded(path: Path | None, queries: Named, documents: Named) -> tuple[Any, Tensor | None]:
    """Pairs of rows, sorted by query, or rows of documents that no query meets."""
    from wasskit.data.embeddings import read_values
    from wasskit.data.pairs import read_pairs, rows_of_names, rows_of_pairs
    from wasskit.system.documents import read_csv_rows

    if path is None:
        return None, None
    rows = read_csv_rows(path) if path.suffix.lower() == ".csv" else []
    heading = [name.strip() for name in rows[0][1]] if rows else []
    if "query" in heading and "document" in heading:
        sources, items, _ = rows_of_pairs(read_pairs(path), queries, documents)
        order = sources.argsort(stable=True)
        return (sources[order], items[order]), None
    names = read_values(path, what="ids").astype(str).tolist()
    if not names:
        raise UserError(f"--exclude: {path} names no document.")
    return None, rows_of_names(path, names, documents)
