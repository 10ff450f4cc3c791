"""What the commands find, as reports: pure functions of encoders and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from torch import nn

from wasskit.data.base import ImageDataset
from wasskit.evaluation.embedding import Features
from wasskit.evaluation.linear import ProbeProtocol, linear_probe
from wasskit.evaluation.uniform_null import uniform_spectrum
from wasskit.models.catalog import SMALL_IMAGE
from wasskit.models.export import weights_bytes
from wasskit.pictures import bars, curves, spectra
from wasskit.pictures.look import Look
from wasskit.plugins.ssl.evaluation import (
    Metrics,
    Neighbours,
    Settings,
    comparison,
    features_and_projections,
    linear_accuracy,
    require_labels,
    spectrum_of,
    standard_metrics,
    without_labels,
)
from wasskit.plugins.ssl.metrics import METRICS
from wasskit.plugins.ssl.network import Encoder, SslModel
from wasskit.report import Entry, Report, Table, published
from wasskit.text import counted
from wasskit.training.metrics_csv import MetricRow
from wasskit.training.records import Summary
from wasskit.training.series import over_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ("linear_top1", "linear_top5", "linear_best_top1", "knn", "w2", "lu", "alignment", "effective_rank")


@dataclass(frozen=True)
class Named:
    """How a report names its model, which entry of ``evaluation.json`` it makes, and what was published."""

    model: str = ""
    entry: str = ""
    paper: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Probe:
    """The linear probe: its protocol, images per step, and what is told of each epoch's top-1 in percent."""

    protocol: ProbeProtocol
    batch_size: int = 256
    after_epoch: Callable[[int, float], None] | None = None


def pretraining_report(
    encoders: Mapping[str, Encoder],
    bank: ImageDataset | None,
    test: ImageDataset,
    model: SslModel,
    neighbours: Neighbours | None,
    settings: Settings,
    *,
    summary: Summary,
    rows: Callable[[], Sequence[MetricRow]],
    title: str = "",
    paper: Mapping[str, Any] | None = None,
) -> Report:
    """The metrics of a finished training; the spectra and, on small images, the k-NN accuracy of what has learned.

    Args:
        encoders: ``untrained`` and ``trained``.
        rows: reads the metrics of the run, where its figures are drawn.
        title: of the comparison.
    """
    found = {
        name: spectrum_of(features_and_projections(encoder, test, settings)[1]) for name, encoder in encoders.items()
    }
    compared: dict[str, Metrics] = {}
    if bank is not None and neighbours is not None and bank.in_memory and test.image_size <= SMALL_IMAGE:
        networks = {name: encoder.backbone for name, encoder in encoders.items()}
        compared = comparison({"raw pixels": nn.Flatten(), **networks}, bank, test, model.views, neighbours, settings)
    measured_on = f"{test.name}/{test.split}"
    told = {"last": _of_test(summary.final)}
    if summary.best is not None:
        told[f"best (epoch {summary.best.epoch})"] = _of_test(summary.best.metrics)
    tables = [metrics_table(f"{measured_on}, after {counted(summary.epochs, 'epoch')}", told, paper)]
    files: dict[str, Any] = {"spectrum.npz": _arrays(found)}
    figures = {
        "learning_curves": lambda: _learning_curves(over_epochs(rows())),
        "spectrum": lambda: _spectra(found, len(test), model.projector_width),
    }
    if compared:
        protocol = METRICS[next(iter(compared["trained"]))].heading
        files["evaluation.json"] = Entry("comparison", compared)
        figures["comparison"] = lambda: _comparison(compared, title)
        tables.append(
            Table(
                ["representation", "whole images", "random crops"],
                [[name, *values.values()] for name, values in compared.items()],
                f"{measured_on}, {protocol} (percent)", best={1: "max", 2: "max"},
            )
        )  # fmt: skip
    return Report({"comparison": compared}, tables, remarks=published(paper or {}), files=files, figures=figures)


def evaluation_report(
    model: SslModel,
    bank: ImageDataset | None,
    test: ImageDataset,
    settings: Settings,
    *,
    neighbours: Neighbours | None = None,
    probe: Probe | None = None,
    named: Named | None = None,
) -> Report:
    """All columns of the published table, and the spectrum.

    Args:
        bank: labelled training images; None: k-NN and the probe are left out.
        probe: None: the linear probe is left out.
    """
    named = named or Named(entry=test.name)
    features, projections = encoded = features_and_projections(model.encoder, test, settings)
    metrics = standard_metrics(model.encoder, bank, test, model.views, neighbours, settings, encoded=encoded)
    spectrum = spectrum_of(projections)
    files: dict[str, Any] = {}
    if probe is not None and bank is not None:
        linear, files["linear.safetensors"] = probed(model, bank, test, settings, probe, features)
        metrics |= linear
    width = model.projector_width
    title = f"{test.name}/{test.split}, {len(test):,} images"
    return Report(
        {**metrics, "spectrum": spectrum},
        [metrics_table(title, {named.model: metrics}, named.paper)],
        notes=[f"Spectrum: {len(spectrum)} of {width} singular values are not zero."],
        remarks=[*([] if bank is not None else [without_labels(test)]), *published(named.paper or {})],
        files={
            "evaluation.json": Entry(named.entry, metrics),
            f"spectrum-{named.entry}.npz": _arrays({named.entry: spectrum}),
            **files,
        },
        figures={f"spectrum-{named.entry}": lambda: _spectra({named.entry: spectrum}, len(test), width)},
    )


def knn_report(bank: Features, test: Features, neighbours: Neighbours, named: Named, title: str) -> Report:
    """k-NN accuracy of ``test`` among ``bank``; ``title`` names both."""
    metrics = neighbours.measure(bank, test)
    return Report(
        metrics,
        [metrics_table(f"{title} (percent)", {named.model: metrics}, named.paper)],
        remarks=published(named.paper or {}),
        files={"evaluation.json": Entry(named.entry, metrics)},
    )


def linear_report(found: Probed, named: Named, title: str) -> Report:
    """Accuracy of a linear probe, and its classifier as a file; ``title`` names what it was tested on."""
    metrics, classifier = found
    return Report(
        metrics,
        [metrics_table(f"{title} (percent)", {named.model: metrics}, named.paper)],
        notes=[f"Best of all epochs: {metrics['linear_best_top1']:.2f} (epoch {metrics['linear_best_epoch']})."],
        remarks=published(named.paper or {}),
        files={"evaluation.json": Entry(named.entry, metrics), "linear.safetensors": classifier},
    )


Probed = tuple[Metrics, Callable[[BinaryIO], object]]
"""What a linear probe found, and what writes its classifier."""


def probed(
    model: SslModel,
    train: ImageDataset,
    test: ImageDataset,
    settings: Settings,
    probe: Probe,
    known: Features | None = None,
) -> Probed:
    """The linear probe of a backbone on random crops and flips; ``known``: the features of ``test``, if there."""
    require_labels(train, "A linear probe")
    backbone = model.encoder.backbone
    metrics, classifier = linear_accuracy(
        backbone, train, test, model.views, probe.protocol, settings, num_features=backbone.num_features,
        probe_batch_size=probe.batch_size, known=known, after_epoch=probe.after_epoch,
    )  # fmt: skip
    return metrics, _classifier(classifier, train.name, train.classes)


def probed_features(
    train: Features, test: Features, classes: Sequence[str], probe: Probe, *, dataset: str, seed: int = 0
) -> Probed:
    """The linear probe of features that are there already: of their rows as they are, in a new order each epoch."""
    found = linear_probe(
        train.features, train.labels, test.features, test.labels, protocol=probe.protocol,
        batch_size=probe.batch_size, seed=seed,
    )  # fmt: skip
    metrics = {
        "linear_top1": 100 * found.top1,
        "linear_top5": 100 * found.top5,
        "linear_best_top1": 100 * found.best_top1,
        "linear_best_epoch": found.best_epoch,
    }
    return metrics, _classifier(found.classifier, dataset, classes)


def _classifier(classifier: nn.Linear, dataset: str, classes: Sequence[str]) -> Callable[[BinaryIO], object]:
    header = {"kind": "ssl-linear", "dataset": dataset, "classes": list(classes)}
    return lambda file: file.write(weights_bytes(classifier, header))


def _of_test(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("test/")}


def _arrays(found: Mapping[str, Sequence[float]]) -> Callable[[BinaryIO], object]:
    """Logarithms of singular values, one array per name, where `wasskit plot spectrum` finds them."""
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in found.items()}
    return partial(np.savez, **arrays)


# --- Tables and figures -----------------------------------------------------------------------------------------------


def metrics_table(title: str, rows: Mapping[str, Mapping[str, float]], paper: Mapping[str, Any] | None = None) -> Table:
    """Metrics, one row per name, with the published ones below."""
    everything = dict(rows)
    if paper and paper.get("metrics"):
        everything["published"] = {key.partition("/")[2]: value for key, value in paper["metrics"].items()}
    headings = _headings(key for values in everything.values() for key in values)
    return Table(
        ["", *headings.values()],
        [[name, *(values.get(key) for key in headings)] for name, values in everything.items()],
        title,
    )


def _headings(metrics: Iterable[str]) -> dict[str, str]:
    """The metrics that tables show, in their order, with their headings."""
    given = dict.fromkeys(metrics)
    knn = [key for key in given if key.startswith("knn") and key.endswith("_top1")]
    shown = [key for name in _SHOWN for key in (knn if name == "knn" else [name])]
    return METRICS.headings(*(key for key in shown if key in given))


def _learning_curves(series: Mapping[str, Mapping[float, float]]) -> Figure:
    """Losses, k-NN accuracy, and the three uniformity metrics over the epochs."""
    terms = {"total": series.get("train/loss", {}), "method": series.get("train/method", {})}
    # What has a weight is a term beside the method.
    added = [key for key in series if f"{key}_weight" in series]
    terms |= {f"{METRICS[key.partition('/')[2]].heading} of the batch": series[key] for key in added}
    knn = [key for key in sorted(series) if key.startswith("test/knn")]
    uniformity = METRICS.headings("w2", "lu", "alignment")
    panels = [
        curves.Panel.of_run("training loss", terms),
        curves.Panel.of_run("test accuracy (%)", {METRICS[key.partition("/")[2]].heading: series[key] for key in knn}),
        curves.Panel.of_run(
            "test projections", {heading: series.get(f"test/{key}", {}) for key, heading in uniformity.items()}
        ),
    ]
    return curves.draw_curves(panels, Look("paper", "double"))


def _comparison(found: Mapping[str, Metrics], title: str) -> Figure:
    """k-NN accuracies of several representations, on whole and on cropped test images, as bars."""
    heading = METRICS[next(iter(found["trained"]))].heading
    panels = {
        f"{heading} (%), {images}": {
            number: bars.Value(list(values.values())[place], None, 1) for number, values in enumerate(found.values())
        }
        for place, images in enumerate(("whole images", "random crops"))
    }
    return bars.draw_bars(list(found), panels, Look("paper", "double", title))


def _spectra(found: Mapping[str, Sequence[float]], n: int, width: int) -> Figure:
    """Spectra of the covariance of n projections, of ``width`` values, beside that of n uniform points, which is not
    flat: a cliff below it is collapse."""
    whole = {name: [*values, *[-math.inf] * (width - len(values))] for name, values in found.items()}
    uniform = {"uniform sample": uniform_spectrum(n, width).tolist()}
    return spectra.draw_spectra(whole, Look("paper", "single"), references=uniform)
