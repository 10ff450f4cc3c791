"""What the commands find, as reports: pure functions of a model and of embeddings that are there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wasskit.errors import UserError
from wasskit.pictures import costs, curves, dimensions
from wasskit.pictures.bars import Value
from wasskit.pictures.look import Look
from wasskit.plugins.mrl.adaptive import (
    Outcome,
    adaptive_strategies,
    cascade_outcome,
    classifier_outcomes,
    funnel_strategies,
    kept_outcome,
    occurring_thresholds,
    retrieval_outcome,
    retrieve,
    single_shots,
)
from wasskit.plugins.mrl.evaluation import between, classify_prefixes, neighbour_metrics
from wasskit.plugins.mrl.metrics import CLASSIFICATION, METRICS, NEIGHBOURS
from wasskit.plugins.mrl.network import MrlModel
from wasskit.plugins.mrl.trained import Split
from wasskit.report import Report, Table, published
from wasskit.text import counted
from wasskit.training.metrics_csv import MetricRow
from wasskit.training.records import Summary
from wasskit.training.series import over_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of learning curves of one panel.
_CURVES = 8


def training_report(
    dataset: str, images: int, summary: Summary, rows: Callable[[], Sequence[MetricRow]], paper: Mapping[str, Any]
) -> Report:
    """The accuracies of a finished training at each dimension, beside the published means where there are any.

    Args:
        images: how many there are in the test split.
        rows: reads the metrics of the run, where its figures are drawn.
    """
    final = summary.final
    dims = sorted(int(key.partition("@")[2]) for key in final if key.startswith("test/top1@"))
    title = f"{dataset}/test, {images:,} images, after {counted(summary.epochs, 'epoch')} (percent)"
    figures = {"learning_curves": lambda: _learning_curves(over_epochs(rows()), dims)}
    if len(dims) > 1:
        shown = {heading: _by_dimension(dims, final, f"test/{name}") for name, heading in CLASSIFICATION.items()}
        figures = {"dimensions": lambda: dimensions_figure(shown, "test metric (%)"), **figures}
    return Report({}, [dimensions_table(title, dims, final, paper=paper)], remarks=published(paper), figures=figures)


def evaluation_report(
    model: MrlModel | None,
    test: Split,
    train: Split | None,
    *,
    dims: Sequence[int],
    neighbours: bool = True,
    k: int = 20,
    temperature: float = 0.07,
    trained_dims: bool = False,
    interpolate: bool = False,
    name: str = "",
) -> Report:
    """Everything that is measured at each dimension.

    Args:
        model: whose classifiers are measured; None: embeddings alone, which have none.
        test: what is measured on; the classifiers' metrics are left out where its classes are not the model's.
        train: whose images vote in k-NN (at most all of them); None: k-NN is left out.
        dims: increasing dimensions of k-NN and retrieval; classifiers have those that were trained.
        neighbours: whether to measure k-NN and retrieval.
        trained_dims: whether dimensions that only the classifiers have are measured and shown too.
        interpolate: whether to measure neighbours at one dimension between each two of ``dims`` too; the means are
            over ``dims``.
        name: of the model, as the report names it.

    Raises:
        UserError: nothing is left to measure.
    """
    voting = k if train is None else min(k, len(train))
    added = sorted({*between(dims)} - {*dims}) if interpolate and neighbours else []
    at = None if trained_dims else dims
    values, remarks = _measured(model, test, train, dims if neighbours else (), added, voting, temperature, at)
    if train is not None and voting < k:
        remarks.append(f"There are {voting} training {train.things}: k-NN takes them all.")
    metrics = {f"{test.name}/{metric}": value for metric, value in values.items()}
    if added:
        remarks.append(f"Means are over {', '.join(map(str, dims))}, without the dimensions between.")
    shown = sorted({*dims, *added, *(model.dims if model is not None and trained_dims else ())})
    headings = {key: heading for key, heading in (CLASSIFICATION | NEIGHBOURS).items() if key in values}
    result: dict[str, Any] = {
        "model": name,
        "dataset": test.dataset,
        "split": test.name,
        "images": len(test),
        "dims": shown,
        "protocol": {
            "top1, top5, map10": "classifier of each trained dimension on the normalised prefix; map10 is "
            "the mean reciprocal rank of the true class within the first 10",
            "knn": f"{voting} nearest training images, votes exp(cosine / {temperature:g})",
            "precision1, retrieval_map10": f"every image of {test.name} queries all others; by min(R, 10)",
        },
        "metrics": metrics,
    }
    on = f"{test.dataset}/{test.name}"
    drawn = {heading: _by_dimension(shown, values, key) for key, heading in headings.items()}
    title = f"{on}, {len(test):,} {test.things} (percent)"
    table = dimensions_table(title, shown, metrics, split=test.name, headings=headings)
    figures = {"evaluation": lambda: dimensions_figure(drawn, f"{on} (%)")}
    return Report(
        result, [table], remarks=remarks, files={"evaluation.json": result}, figures=figures if len(shown) > 1 else {}
    )


def _measured(
    model: MrlModel | None,
    test: Split,
    train: Split | None,
    dims: Sequence[int],
    added: Sequence[int],
    k: int,
    temperature: float,
    at: Sequence[int] | None,
) -> tuple[dict[str, float], list[str]]:
    """The metrics that can be measured, those of neighbours at ``dims`` and ``added``, those of the classifiers ``at``
    trained dimensions, and remarks on what is left out.

    Means are over ``dims``, those of the classifiers over the trained ones among them.
    """
    values: dict[str, float] = {}
    remarks = []
    why = " on a data set of other classes"
    if model is not None and test.classes != model.classes:
        remarks.append(f"{test.dataset} has other classes than the model's: its classifiers are not measured.")
    elif model is not None and (trained := [d for d in model.dims if at is None or d in at]):
        values |= classify_prefixes(model, test.embeddings, test.labels, trained)
        if at is not None and len(trained) < len(at):
            named = ", ".join(map(str, trained))
            remarks.append(f"Of these dimensions {named} have classifiers, and their means are over those.")
    elif model is not None:
        why, named = ": no classifier has a dimension of --dims", ", ".join(map(str, model.dims))
        remarks.append(f"The classifiers have {named} dimensions: none is asked for, so they are not measured.")
    if dims:
        bank = None if train is None else (train.embeddings, train.labels)
        values |= neighbour_metrics(
            test.embeddings, test.labels, dims, train=bank, k=k, temperature=temperature, between=added
        )
    if not values:
        raise UserError(f"--no-neighbours leaves nothing to measure{why}.")
    return values, remarks


def retrieval_report(
    queries: Split, gallery: Split, dims: Sequence[int], *, shortlist: int = 200, name: str = ""
) -> Report:
    """Retrieval by single shots, adaptively and by funnels: quality against cost.

    Where not all have labels, the quality is what a search keeps of the ten nearest by the whole embedding.

    Args:
        dims: increasing; the prefixes that are compared.
        shortlist: items that the first search keeps.
        name: of the model, as the report names it.
    """
    size = len(gallery)
    strategies = [
        *single_shots(dims, size),
        *adaptive_strategies(dims, size, shortlist),
        *funnel_strategies(dims, size, shortlist),
    ]
    searched: dict[int, Tensor] = {}
    x, items = queries.embeddings, gallery.embeddings
    labelled = all(bool((split.labels >= 0).all()) for split in (queries, gallery))
    truth = None if labelled else retrieve(x, items, strategies[len(dims) - 1], searched=searched)
    found = {
        # Longest lists first: what they searched serves the others.
        strategy: retrieval_outcome(x, queries.labels, items, gallery.labels, strategy, searched=searched)
        if truth is None
        else kept_outcome(x, items, strategy, truth, searched=searched)
        for strategy in sorted(strategies, key=lambda strategy: len(strategy.stages), reverse=True)
    }
    outcomes = [found[strategy] for strategy in strategies]
    headings = METRICS.headings(*outcomes[0].metrics)
    *_, drawn = outcomes[0].metrics
    result: dict[str, Any] = {
        "model": name,
        "dataset": queries.dataset,
        "queries": queries.name,
        "gallery": gallery.name,
        "gallery_size": size,
        "shortlist": min(shortlist, size),
        "protocol": "cosine of prefixes; operations: multiply-adds of inner products per query",
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    points = {
        strategy: [(o.operations, o.metrics[drawn], o.text.split(" > ")[0]) for o in outcomes if o.name == strategy]
        for strategy in dict.fromkeys(o.name for o in outcomes)
    }
    table = costs_table(
        f"{queries.dataset}: {queries.name} queries, {size:,} {gallery.name} {gallery.things} searched", outcomes,
        headings, "dimensions", unit=("M multiply-adds", 1e6),
        reference=outcomes[len(dims) - 1],
    )  # fmt: skip

    def draw() -> Figure:
        return costs.draw_costs(
            points, Look("paper", "single", f"{queries.dataset}: {size:,} items"),
            xlabel="multiply-adds per query; labels: first dimension", ylabel=f"{headings[drawn]} (%)",
        )  # fmt: skip

    said = [] if labelled else ["Without labels only what is kept of the nearest by the whole embedding is measured."]
    return Report(result, [table], remarks=said, files={"retrieval.json": result}, figures={"retrieval": draw})


def cascade_report(
    logits: Tensor,
    test: Split,
    dims: Sequence[int],
    thresholds: Sequence[float] | None = None,
    *,
    tied: bool = False,
    name: str = "",
    remarks: Sequence[str] = (),
) -> Report:
    """Classification by growing prefixes: accuracy against the coordinates used.

    Args:
        logits: (K, N, C) of the classifiers at ``dims``.
        thresholds: probabilities from which a prefix decides; None: deciles of those that occur.
        tied: whether a classifier goes on from that of the prefix before it.
        name: of the model, as the report names it.
        remarks: what else the report says.
    """
    single = classifier_outcomes(logits, test.labels, dims)
    cascades = [
        cascade_outcome(logits, test.labels, dims, threshold, tied=tied)
        for threshold in sorted(thresholds or occurring_thresholds(logits))
    ]
    result: dict[str, Any] = {
        "model": name,
        "dataset": test.dataset,
        "split": test.name,
        "images": len(test),
        "protocol": "the shortest prefix whose likeliest class reaches the threshold decides; "
        "operations: multiply-adds of the classifiers that were tried, per image",
        "outcomes": [asdict(outcome) for outcome in (*single, *cascades)],
    }
    points = {
        "one dimension": [(o.metrics["mean_dim"], o.metrics["top1"], "") for o in single],
        "cascade, by threshold": [(o.metrics["mean_dim"], o.metrics["top1"], o.text) for o in cascades],
    }
    table = costs_table(
        f"{test.dataset}/{test.name}, {len(test):,} {test.things}", [*single, *cascades],
        METRICS.headings("top1", "mean_dim"), "dimension or threshold", unit=("k multiply-adds", 1e3),
        reference=single[-1],
    )  # fmt: skip

    def draw() -> Figure:
        return costs.draw_costs(
            points, Look("paper", "single", f"{test.dataset}/{test.name}"), xlabel="mean number of coordinates used",
            ylabel="top-1 (%)",
        )  # fmt: skip

    return Report(result, [table], remarks=remarks, files={"cascade.json": result}, figures={"cascade": draw})


# --- Tables -----------------------------------------------------------------------------------------------------------


def dimensions_table(
    title: str,
    dims: Sequence[int],
    metrics: Mapping[str, float],
    *,
    split: str = "test",
    headings: Mapping[str, str] = CLASSIFICATION,
    paper: Mapping[str, Any] | None = None,
) -> Table:
    """Metrics named ``split/metric@dim`` as one row per dimension, their means, and published means if any."""
    rows: list[list[Any]] = [[str(d), *(metrics.get(f"{split}/{key}@{d}") for key in headings)] for d in dims]
    rows.append(["mean", *(metrics.get(f"{split}/{key}") for key in headings)])
    means = (paper or {}).get("metrics", {})
    if means:
        rows.append(["published mean", *(means.get(f"{split}/{key}") for key in headings)])
    return Table(["dimension", *headings.values()], rows, title)


def costs_table(
    title: str,
    outcomes: Sequence[Outcome],
    headings: Mapping[str, str],
    detail: str,
    *,
    unit: tuple[str, float],
    reference: Outcome,
) -> Table:
    """Quality and cost, the cheapest first; the last column is how many times cheaper than the reference.

    ``unit`` is the heading of the cost and the number of multiply-adds that it counts as one.
    """
    rows = [
        [
            o.name,
            o.text,
            *(f"{o.metrics[key]:.2f}" for key in headings),
            o.operations / unit[1],
            f"{reference.operations / o.operations:.1f}",
        ]
        for o in sorted(outcomes, key=lambda o: o.operations)
    ]
    return Table(["method", detail, *headings.values(), unit[0], "times cheaper"], rows, title, digits=3)


# --- Figures ----------------------------------------------------------------------------------------------------------


def dimensions_figure(series: Mapping[str, Mapping[int, Value]], ylabel: str) -> Figure:
    """Metrics, or rows of a grid, over the dimensions."""
    numbers = sorted({d for values in series.values() for d in values})
    panel = dimensions.Panel(numbers, dict(enumerate(series.values())), "dimension", ylabel)
    return dimensions.draw_dims(list(series), [panel], Look("paper", "single"))


def _by_dimension(dims: Sequence[int], values: Mapping[str, float], key: str) -> dict[int, Value]:
    """A metric at those of the dimensions at which it was measured."""
    return {d: Value(values[f"{key}@{d}"], None, 1) for d in dims if f"{key}@{d}" in values}


def _learning_curves(series: Mapping[str, Mapping[float, float]], dims: Sequence[int]) -> Figure:
    """The terms of the loss over the epochs, and the top-1 accuracy at each dimension."""
    terms = {
        "cross entropies (mean)": series.get("train/ce", {}),
        "Sinkhorn divergences (sum)": series.get("train/wasserstein", {}),
    }
    shown = dims if len(dims) <= _CURVES else [*dims[: _CURVES - 1], dims[-1]]
    accuracies = {str(d): series.get(f"test/top1@{d}", {}) for d in shown}
    panels = [
        curves.Panel.of_run("training loss", terms),
        curves.Panel.of_run("test top-1 (%)", accuracies, shaded="dimension"),
    ]
    return curves.draw_curves(panels, Look("paper", "double"))
