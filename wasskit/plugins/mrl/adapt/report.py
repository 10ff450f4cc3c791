"""What an adaptor is worth: its prefixes beside those of the vectors as they are, rotated, and by components."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from wasskit.data.samplers import some_rows
from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.evaluation.compression import Bank, Measured, baselines, compression_rows
from wasskit.plugins.mrl.adapt.data import Vectors, digits, read_vectors
from wasskit.plugins.mrl.adapt.losses import LabelLoss
from wasskit.plugins.mrl.adapt.network import principal_axes
from wasskit.plugins.mrl.adapt.options import ADAPTED, COMPRESSION, AdaptOptions
from wasskit.plugins.mrl.adapt.task import AdaptTask, Parts, adapt
from wasskit.plugins.mrl.evaluation import between
from wasskit.plugins.mrl.metrics import METRICS
from wasskit.report import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURED = 20_000
"""Rows of the test vectors, and of their bank, that are compared at most: of more, a random sample, always the same."""


def read_vectors_of(config: AdaptOptions) -> tuple[Vectors, Vectors | None]:
    """The vectors to train on and to test with, as a configuration names them.

    Raises:
        UserError: a file cannot be read, or does not fit the others.
    """
    if config.train is None:
        return digits("train"), digits("test")
    vectors = read_vectors(config.train, config.labels, config.pairs, also=config.test_labels)
    if config.test is None:
        return vectors, None
    test = read_vectors(config.test, config.test_labels, also=config.labels)
    if test.rows.shape[1] != vectors.rows.shape[1]:
        raise UserError(
            f"{config.test} has vectors of {test.rows.shape[1]} numbers, {config.train} of {vectors.rows.shape[1]}."
        )
    return vectors, test


@torch.no_grad()
def compare(
    task: AdaptTask, vectors: Vectors, parts: Parts, test: Vectors | None, device: torch.device, config: AdaptOptions
) -> Report:
    """The table that decides, on the test vectors, or without any on the validation part; called by all ranks.

    The bank in which nearest vectors are looked up are all of ``vectors``, the validation part among them unless it is
    what is measured; where none of its labels is one of the set's (classes never trained on) ``nn1`` has no meaning and
    is left out, as the classifiers are.
    """
    measured = test or parts.validation or parts.train
    where = "validation" if test is None else "test"
    own, labels = _sample(measured, device)
    mean, axes = principal_axes(_sample(parts.train, device)[0])
    bank, bank_labels = _sample(vectors if test is not None else parts.train, device)
    if labels is not None and bank_labels is not None and not bool(torch.isin(labels, bank_labels).any()):
        bank_labels = None

    def methods(x: torch.Tensor) -> dict[str, torch.Tensor]:
        beside = dict(baselines(x, axes, mean)) if config.baselines else {}
        return {**beside, ADAPTED: adapt(task.network, x, device).to(device)}

    dims, adapted = task.model.dims, methods(own)
    found = compression_rows(
        adapted, between(dims) if config.interpolate else dims, reference=own, labels=labels,
        bank=Bank(methods(bank), bank_labels), codes=config.codes,
    )  # fmt: skip
    beside: dict[str, dict[str, float]] = {name: {} for name in adapted}
    for one in found:
        if one.code == config.codes[0]:
            named = {f"{COMPRESSION[name]}@{one.dim}": value for name, value in one.metrics.items()}
            beside[one.method] |= named
    final = beside.pop(ADAPTED)
    known = parts.train.labels
    if known is not None and labels is not None and bank_labels is not None and isinstance(task.objective, LabelLoss):
        classes = known.unique().to(device)
        for d, logits in zip(dims, task.objective.objective.logits(adapted[ADAPTED]), strict=True):
            right = classes[logits.argmax(-1)] == labels
            final[f"top1@{d}"] = 100 * float(right.double().mean())
    recorded = {"final": {f"{where}/{name}": value for name, value in final.items()}, "baselines": beside}
    return _report(found, where, len(own), recorded)


def _sample(vectors: Vectors, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Up to ``MEASURED`` vectors and their labels, in their order; files are often sorted, their first rows alike."""
    rows = some_rows(len(vectors), MEASURED, derive_seed(0, "measured"))
    labels = None if vectors.labels is None else vectors.labels[rows].to(device)
    return vectors.rows[rows].to(device, torch.float32), labels


def _report(found: Sequence[Measured], where: str, count: int, recorded: Mapping[str, Any]) -> Report:
    names = list(found[0].metrics)
    headings = METRICS.headings(*names)
    dims = sorted({one.dim for one in found})
    by_place = {(one.code, one.dim, one.method): one for one in found}
    methods = list(dict.fromkeys(one.method for one in found))
    tables = []
    for name in names:
        lines = []
        for code in dict.fromkeys(one.code for one in found):
            for d in dims:
                line = [by_place[code, d, method].metrics[name] for method in methods]
                lines.append([code, str(d), str(by_place[code, d, methods[0]].bytes), *line])
        tables.append(
            Table(
                ["code", "dimension", "bytes", *methods],
                lines,
                f"{headings[name]}, {where}, {count:,} vectors (percent)",
            )
        )
    flat = Table(
        ["method", "code", "dimension", "bytes", *names],
        [[one.method, one.code, one.dim, one.bytes, *one.metrics.values()] for one in found],
    )
    result = {
        "measured_on": where,
        **recorded,
        "compression": [
            {"method": one.method, "code": one.code, "dim": one.dim, "bytes": one.bytes, **one.metrics} for one in found
        ],
    }
    figures = {
        f"compression_{name.replace('@', '')}": functools.partial(_draw, found, name, headings[name]) for name in names
    }
    return Report(result, tables, files={"compression.csv": flat}, figures=figures)


def _draw(found: Sequence[Measured], name: str, heading: str) -> Figure:
    """One metric over the bytes per vector: a line for each method, dashed for bytes and dotted for bits."""
    from wasskit.pictures.style import figure, series_style

    fig, ax = figure(width=4.5)
    lines: Mapping[str, Any] = {"float32": "-", "int8": "--", "binary": ":"}
    methods = list(dict.fromkeys(one.method for one in found))
    for number, method in enumerate(methods):
        for code, line in lines.items():
            points = [(m.bytes, m.metrics[name]) for m in found if (m.method, m.code) == (method, code)]
            if points:
                style = {**series_style(number), "linestyle": line, "markersize": 3}
                label = method if code == found[0].code else None
                ax.plot(*zip(*points, strict=True), label=label, **style)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("bytes per vector (solid: float32, dashed: int8, dotted: binary)")
    ax.set_ylabel(f"{heading} (%)")
    ax.legend()
    return fig
