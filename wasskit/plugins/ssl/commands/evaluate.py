"""``wasskit ssl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.ssl.options import MeasureOptions, NeighbourOptions, ProbeOptions


@dataclass(frozen=True, kw_only=True)
class Evaluate(MeasureOptions, NeighbourOptions, ProbeOptions):
    """Options of ``wasskit ssl evaluate``."""

    probe: bool = option(True, help="Train the linear probe, by far the longest part.", panel="Evaluation")


def body(config: Evaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.distributed.group import is_main
    from wasskit.plugins.ssl.evaluation import (
        Neighbours,
        bank_and_test,
        features_and_projections,
        spectrum_of,
        standard_metrics,
        without_labels,
    )
    from wasskit.plugins.ssl.figures import draw_spectrum
    from wasskit.plugins.ssl.measure import measuring
    from wasskit.plugins.ssl.probe import probe
    from wasskit.plugins.ssl.results import paper_of, record, save_spectra, show_metrics

    files = [
        "spectrum-{key}.npz",
        "figures/spectrum-{key}.png",
        *(["linear.safetensors"] if config.probe else []),
    ]
    with measuring(config, *files) as measurement:
        model, settings, folder = measurement.model, measurement.settings, measurement.folder
        bank, test = bank_and_test(measurement.split)
        neighbours = None if bank is None else Neighbours.among(bank, config.k, config.temperature)
        features, projections = encoded = features_and_projections(model.encoder, test, settings)
        metrics = standard_metrics(
            model.encoder, bank, test, model.views, neighbours, settings, encoded=encoded
        )
        spectrum = spectrum_of(projections)
        if config.probe and bank is not None:
            metrics |= probe(measurement, config, features)[0]
        width = model.projector_width
        figure = folder / "figures" / f"spectrum-{measurement.key}.png"
        if is_main():
            path = record(folder, measurement.key, metrics)
            save_spectra(folder / f"spectrum-{measurement.key}.npz", {measurement.key: spectrum})
            draw_spectrum(figure, {measurement.key: spectrum}, width)
    if bank is None:
        console.log(without_labels(test))
    show_metrics(
        f"{test.name}/{test.split}, {len(test):,} images",
        {config.model.name: metrics},
        paper_of(config.model),
    )
    if not config.json and is_main():
        console.result(f"Spectrum: {len(spectrum)} of {width} singular values are not zero.")
        console.result(f"Results: {console.escape(str(path))}")
        console.result(f"Figure: {console.escape(str(figure))}")
    return metrics | {"spectrum": spectrum}


command = Command(
    "ssl evaluate",
    Evaluate,
    body,
    "Measure a pretrained model: all columns of the published table, and the spectrum.\n\n"
    "Linear accuracy (last and best epoch) and k-NN accuracy are those of the backbone's features, in percent; W2, L_U "
    "(t = 2), alignment, effective rank and the spectrum are of the normalised projections of the test images.",
    (
        "wasskit ssl evaluate runs/ssl/byol-w2-digits",
        "wasskit ssl evaluate runs/ssl/byol-w2-digits --no-probe --checkpoint best",
    ),
)
