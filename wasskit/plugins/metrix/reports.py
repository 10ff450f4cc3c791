"""What the commands find, as reports: pure functions of embeddings and of metrics that are there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.metric_sets import MetricSplits
from wasskit.evaluation.embedding import Features
from wasskit.evaluation.intervals import chance_difference, share_error
from wasskit.evaluation.per_query import QueryMetrics
from wasskit.evaluation.retrieval import Backend, nearest
from wasskit.pictures import curves, dimensions
from wasskit.pictures.bars import Value
from wasskit.pictures.look import Look
from wasskit.plugins.metrix.counted import (
    Counting,
    class_table,
    count,
    protocol,
    query_table,
    ranking_table,
    remarks,
    summary,
)
from wasskit.plugins.metrix.figures import draw_neighbours, draw_retrieved, draw_similarities, picture
from wasskit.plugins.metrix.measure import Geometry, geometry, nearest_of_each_kind, retrieval_percent
from wasskit.plugins.metrix.metrics import METRICS
from wasskit.report import Content, Report, Table, published
from wasskit.training.run import MetricRow
from wasskit.training.series import final_values, over_epochs, over_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "last": "last epoch",
    "best_by_validation": "best on validation classes",
    "best_on_test": "best on the test set (as published)",
}
PROTOCOL = (
    "cosine similarity; a query is left out of its own gallery; ties and queries without a positive count against the "
    "model; mAP@R over the first R ranks, R the number of positives"
)

# --- Training ---------------------------------------------------------------------------------------------------------


def training_report(
    dataset: str,
    parts: MetricSplits,
    runs: Mapping[str, Sequence[MetricRow]],
    skipped: Mapping[str, int],
    paper: Mapping[str, Any],
    pixels: Mapping[str, float] | None = None,
) -> Report:
    """The retrieval of a training, and of its baseline where there is one, beside what is published.

    Args:
        runs: their metrics by name, the training first.
        skipped: how many of its batches mixed nothing, by the reason.
        pixels: the metrics of raw pixels.
    """
    epochs = {name: epochs_to_report(rows) for name, rows in runs.items()}
    first, *others = epochs
    result = {
        "skipped_share": _skipped_share(runs[first]),
        "skipped_steps": dict(skipped),
        "epochs_reported": epochs[first],
        **({"baseline": epochs[others[0]]} if others else {}),
        **({"raw_pixels": dict(pixels)} if pixels else {}),
    }
    searched = f" in a gallery of {len(parts.gallery):,}" if parts.gallery is not None else ""
    title = (
        f"{dataset}: {len(parts.test):,} queries{searched} of {len(parts.test.classes):,} classes never trained on "
        "(percent)"
    )
    recalls = {name: _recalls(final_values(over_steps(rows)), "test/") for name, rows in runs.items()}
    if pixels:
        recalls["raw pixels"] = _recalls(pixels, "")
    figures: dict[str, Callable[[], Figure]] = {"learning_curves": lambda: _learning_curves(runs)}
    if len(recalls[first]) > 1:
        figures["recall"] = lambda: _recall_figure(recalls, len(parts.test))
    notes = [said] if others and (said := _no_difference(epochs, first, others[0], len(parts.test))) else []
    notes += [said] if pixels and (said := _below_pixels(epochs, pixels)) else []
    table = runs_table(title, epochs, paper, pixels)
    return Report(result, [table], notes, remarks=published(paper), figures=figures)


def _below_pixels(epochs: Mapping[str, Mapping[str, Any]], pixels: Mapping[str, float]) -> str | None:
    """That raw pixels find more than the last epochs do, if so."""
    last = {name: found["last"]["metrics"]["recall@1"] for name, found in epochs.items() if "last" in found}
    below = [f"{name} ({value:.2f})" for name, value in last.items() if value < pixels["recall@1"]]
    if not below:
        return None
    return (
        f"Raw pixels, compared by their cosines, have a recall@1 of {pixels['recall@1']:.2f}, more than the last epoch "
        f"of {' and of '.join(below)}: of classes never trained on, these embeddings tell less than the images do."
    )


def _no_difference(epochs: Mapping[str, Mapping[str, Any]], first: str, other: str, queries: int) -> str | None:
    """That two recalls of one run each are closer than chance, if they are; how far the finer MAP@R is apart.

    Chance is that of the queries (`wasskit.evaluation.intervals.chance_difference`); that of weights and batches comes
    on top.
    """
    found = [epochs[name]["last"]["metrics"] for name in (first, other) if "last" in epochs[name]]
    if len(found) < 2:
        return None
    last = [metrics["recall@1"] for metrics in found]
    chance = chance_difference(last[0], last[1], queries)
    if abs(last[0] - last[1]) > chance:
        return None
    beside = f" Their MAP@R differ by {found[0]['map@r'] - found[1]['map@r']:+.2f}." if "map@r" in found[0] else ""
    return (
        f"The last recall@1 of {first} and of {other} differ by {last[0] - last[1]:+.2f} points: less than by chance "
        f"alone ({chance:.1f} for so many queries), so that by it one run does not tell which is better.{beside} "
        "`wasskit metrix crossval` compares them over folds and repeats."
    )


def epochs_to_report(rows: Sequence[MetricRow]) -> dict[str, dict[str, Any]]:
    """Test metrics of the last epoch, of the best on validation classes (if any were kept), and of the best on the
    test set itself, each ``{"epoch": ..., "metrics": {...}}``.

    The last is what published tables report; it chooses the epoch by the very set that it then measures.
    """
    by_epoch: dict[str, dict[int, dict[str, float]]] = {"test": {}, "val": {}}
    for row in rows:
        if row.split in by_epoch:
            by_epoch[row.split].setdefault(row.epoch, {})[row.metric] = row.value
    tested, validated = by_epoch["test"], by_epoch["val"]
    if not tested:
        return {}
    chosen = {"last": max(tested)}
    if validated:
        chosen["best_by_validation"] = max(validated, key=lambda epoch: validated[epoch]["recall@1"])
    chosen["best_on_test"] = max(tested, key=lambda epoch: tested[epoch]["recall@1"])
    return {name: {"epoch": epoch, "metrics": tested[epoch]} for name, epoch in chosen.items() if epoch in tested}


def runs_table(
    title: str,
    epochs: Mapping[str, Mapping[str, Mapping[str, Any]]],
    paper: Mapping[str, Any],
    pixels: Mapping[str, float] | None = None,
) -> Table:
    """:func:`epochs_to_report` of several runs by name, raw pixels and the published figures if there are any."""
    columns = _columns(next(iter(next(iter(epochs.values())).values()))["metrics"])
    rows: list[list[Any]] = [
        [name, f"{LABELS[which]}, {entry['epoch']}", *(entry["metrics"].get(column) for column in columns)]
        for name, report in epochs.items()
        for which, entry in report.items()
    ]
    if pixels:
        rows.append(["raw pixels", "", *(pixels.get(column) for column in columns)])
    values = paper.get("metrics", {})
    if values:
        rows.append(["published", "", *(values.get(f"test/{column}") for column in columns)])
    return Table(["run", "epoch", *METRICS.headings(*columns).values()], rows, title)


def _skipped_share(rows: Sequence[MetricRow]) -> float:
    """Share of the batches that mixed nothing (0 for a run without mixing), from the logged means, each of them over
    the steps since the log before.
    """
    logged = over_steps(rows).get("train/skipped", {})
    skipped = sum(value * (step - before) for before, (step, value) in zip((0, *logged), logged.items(), strict=False))
    return skipped / max(logged) if logged else 0.0


# --- Evaluation -------------------------------------------------------------------------------------------------------


def evaluation_report(
    parts: MetricSplits | None,
    features: Mapping[str, Features],
    recalls: Sequence[int],
    *,
    mixtures: int | None = None,
    backend: Backend = "exact",
    counting: Counting | None = None,
    pictures: int = 6,
    seed: int = 0,
    name: str = "",
    dataset: str = "",
) -> Report:
    """Retrieval and geometry of an embedding; the work is shared by all ranks, which must all call.

    Args:
        parts: the images; None: there are embeddings alone, of the set ``dataset``, and nothing is pictured.
        features: embeddings of the ``parts`` by their names: "test"; "gallery" and "val" where there are any; "train"
            for the geometry.
        recalls: the K of recall@K.
        mixtures: of training embeddings, for utilisation (None: four for each training image, at most 200,000).
        counting: measure every query, with more metrics and by these conventions; None: recalls and mAP@R alone.
        pictures: queries to draw with what they retrieve.
        seed: of the mixtures and of the queries drawn.
        name: of the model, as the report names it.
    """
    test, gallery = features["test"], features.get("gallery")
    labelled = bool((test.labels >= 0).all())
    splits = {"test": (test, gallery), **({"val": (features["val"], None)} if "val" in features else {})}
    values, of_queries = _measured(splits, recalls, backend, counting)
    result: dict[str, Any] = {
        "model": name,
        "dataset": parts.test.name if parts is not None else dataset,
        "queries": len(test.labels),
        "gallery": len(gallery.labels) if gallery is not None else None,
        "protocol": PROTOCOL,
        "metrics": {f"{split}/{key}": value for split, row in values.items() for key, value in row.items()},
    }
    classes = len(test.labels.unique() if parts is None else parts.test.classes) if labelled else None
    said: list[str] = []
    tables, files = [_retrieval_table(result, classes, values)], dict[str, Content]({"evaluation.json": result})
    if counting is not None and of_queries is not None:
        result |= {"protocol": protocol(counting.options), **summary(of_queries, counting.options)}
        tables.append(ranking_table(values))
        said = remarks(of_queries)
        files |= _query_files(of_queries, test.labels, counting)
    if "train" in features:
        number = mixtures or min(200_000, 4 * len(features["train"].labels))
        shape = geometry(test, features["train"], mixed=number, seed=seed)
        result["geometry"] = asdict(shape)
        tables.append(_geometry_table(shape))
    figures: dict[str, Callable[[], Figure]] = {}
    found = _recalls(values["test"])
    if len(found) > 1:
        counted = len(test.labels) if of_queries is None else int(of_queries.counted.sum())
        figures["evaluation_recall"] = lambda: _recall_figure({"test": found}, counted)
    kinds = nearest_of_each_kind(test, gallery, seed=seed) if labelled else None
    if kinds is not None and len(kinds[0]):
        figures["similarities"] = lambda: draw_similarities(*kinds)
    if pictures and parts is not None:
        images = parts.test
        searched = (parts.test, test) if parts.gallery is None or gallery is None else (parts.gallery, gallery)
        figures["retrieved"] = lambda: draw_retrieved(
            (images, test), searched, own=gallery is None, number=pictures, seed=seed
        )
    return Report(result, tables, remarks=said, files=files, figures=figures)


def _measured(
    splits: Mapping[str, tuple[Features, Features | None]],
    recalls: Sequence[int],
    backend: Backend,
    counting: Counting | None,
) -> tuple[dict[str, dict[str, float]], QueryMetrics | None]:
    """The metrics of each split in percent; and those of every test query, where they are measured one by one."""
    if counting is None:
        return {name: retrieval_percent(*split, recalls, backend=backend) for name, split in splits.items()}, None
    found = {name: count(*split, recalls, counting, judged=name == "test") for name, split in splits.items()}
    means = {name: one.means(splits[name][0].labels) for name, one in found.items()}
    return {name: {key: 100 * value for key, value in row.items()} for name, row in means.items()}, found["test"]


def _query_files(found: QueryMetrics, labels: Tensor, counting: Counting) -> dict[str, Content]:
    """The tables of every query and of every class that are asked for, under their full paths."""
    files: dict[str, Content] = {}
    options = counting.options
    if options.per_query is not None:
        files[str(options.per_query.absolute())] = query_table(found, labels, counting)
    if options.per_class is not None:
        files[str(options.per_class.absolute())] = class_table(found, labels, counting.classes)
    return files


def _retrieval_table(
    result: Mapping[str, Any], classes: int | None, values: Mapping[str, Mapping[str, float]]
) -> Table:
    columns = _columns(values["test"])
    searched = f"a gallery of {result['gallery']:,}" if result["gallery"] is not None else "all others"
    of = "" if classes is None else f" of {classes:,} classes"
    return Table(
        ["split", *METRICS.headings(*columns).values()],
        [[split, *(row.get(column) for column in columns)] for split, row in values.items()],
        f"{result['dataset']}: {result['queries']:,} queries{of} against {searched} (percent)",
    )


def _geometry_table(shape: Geometry) -> Table:
    return Table(
        ["measure", "value", "meaning"],
        [
            ["alignment", shape.alignment, "test items of one class: mean distance"],
            ["uniformity", shape.uniformity, "test items: log mean exp(-2 distance), lower is more even"],
            ["utilisation", shape.utilisation, "test item to nearest training item"],
            [f"utilisation, {shape.mixed:,} mixtures", shape.mixed_utilisation, "and to nearest mixture"],
        ],
        "Geometry of the embeddings (squared distances on the unit sphere)",
        digits=4,
    )


# --- Search -----------------------------------------------------------------------------------------------------------


def search_report(
    image: str,
    query: tuple[ImageDataset, Tensor],
    gallery: tuple[ImageDataset, Tensor],
    k: int,
    *,
    own: int | None = None,
    figure: str = "search",
) -> Report:
    """The ``k`` images nearest to an image.

    Args:
        image: the query, as the report names it.
        query: a data set of this image, and its embedding (1, D).
        gallery: the images searched, and their embeddings (N, D).
        own: the number of the query in the gallery, which does not find itself.
        figure: name of the picture.
    """
    asked, items = query[0], gallery[0]
    similarities, indices = nearest(query[1], k + (own is not None), gallery=gallery[1])
    found = [
        (float(s), int(i)) for s, i in zip(similarities[0].tolist(), indices[0].tolist(), strict=True) if i != own
    ][:k]
    label = _label(asked, 0)
    rows = [(place, s, _label(items, i), _name(items, i)) for place, (s, i) in enumerate(found, start=1)]
    result = {
        "query": image,
        "class": label,
        "gallery": len(items),
        "found": [{"rank": r, "similarity": s, "class": c, "image": name} for r, s, c, name in rows],
    }
    title = f"Nearest to {image}{f' ({label})' if label else ''} among {len(items):,} images"

    def draw() -> Figure:
        return draw_neighbours(
            [picture(asked, 0)],
            [[picture(items, i) for _, i in found]],
            similarities=[[s for s, _ in found]],
            right=[[None if label is None or row[2] is None else row[2] == label for row in rows]],
            titles=[label or "query"],
        )

    table = Table(["rank", "cosine", "class", "image"], rows, title, digits=3)
    return Report(result, [table], figures={figure: draw})


def _label(dataset: ImageDataset, index: int) -> str | None:
    if dataset.labels is None or int(dataset.labels[index]) < 0:
        return None
    return dataset.classes[int(dataset.labels[index])]


def _name(dataset: ImageDataset, index: int) -> str:
    return str(dataset.paths[index]) if dataset.paths is not None else f"{dataset.name} number {index}"


# --- Figures ----------------------------------------------------------------------------------------------------------


def _columns(metrics: Mapping[str, float]) -> list[str]:
    """The retrieval metrics among these, in the order of a table; precision@1 is recall@1 and is left out."""
    return [name for name in metrics if name.startswith(("recall@", "map@"))]


def _recalls(metrics: Mapping[str, float], prefix: str = "") -> dict[int, float]:
    """Recall@K by K, of metrics whose names begin with ``prefix``."""
    start = f"{prefix}recall@"
    return dict(sorted((int(k[len(start) :]), v) for k, v in metrics.items() if k.startswith(start)))


def _recall_figure(series: Mapping[str, Mapping[int, float]], queries: int) -> Figure:
    """Recall@K over K, one line per run or split, with two standard errors for so many queries."""
    numbers = sorted({k for values in series.values() for k in values})
    points = [{k: Value(v, 2 * share_error(v, queries), 1) for k, v in own.items()} for own in series.values()]
    panel = dimensions.Panel(numbers, dict(enumerate(points)), "K", "recall@K (%), ± 2 standard errors")
    return dimensions.draw_dims(list(series), [panel], Look("paper", "single"))


def _learning_curves(runs: Mapping[str, Sequence[MetricRow]]) -> Figure:
    """Training loss and recall@1 over the epochs."""
    series = {name: over_epochs(rows) for name, rows in runs.items()}
    losses = [_line(values, "train/loss", name, i) for i, (name, values) in enumerate(series.items())]
    recalls = [
        _line(values, f"{split}/recall@1", f"{name}, {word}", i + shift)
        for shift, (split, word) in ((0, ("test", "test")), (len(series), ("val", "validation")))
        for i, (name, values) in enumerate(series.items())
        if values.get(f"{split}/recall@1")
    ]
    ylabel = "loss (its own of each run)" if len(runs) > 1 else "loss"
    panels = [
        curves.Panel("loss", losses, "epoch", ylabel, apart=True),
        curves.Panel("recall@1", recalls, "epoch", "recall@1 (%), unseen classes", apart=True),
    ]
    return curves.draw_curves(panels, Look("paper", "double"))


def _line(values: Mapping[str, Mapping[float, float]], key: str, label: str, number: int) -> curves.Line:
    return curves.Line(curves.Curve.through(values.get(key, {})), label, number)
