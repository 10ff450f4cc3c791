"""The report of measured embeddings, with its verdict on their collapse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wasskit.evaluation.uniform_null import uniform_spectrum
from wasskit.evaluation.uniformity import effective_rank_of
from wasskit.pictures.look import Look
from wasskit.pictures.spectra import draw_spectra
from wasskit.plugins.study.label_free import LabelFree
from wasskit.plugins.study.verdict import Measurement, as_mapping, verdict
from wasskit.report import Report, Table


def measure_report(x: Measurement, file: str, label_free: LabelFree | None = None) -> Report:
    """The report of measured embeddings: each figure beside what a uniform sample shows, the spectrum, the verdict.

    Args:
        file: where the embeddings come from, as it is named in the report.
        label_free: the metrics that predict a probe's accuracy, in a table and a file of their own.
    """
    ideal = uniform_spectrum(x.n, x.m)
    spectrum = np.asarray(x.spectrum)
    nearest = "distance to the nearest" + (f" of {x.sampled:,}" if x.sampled < x.n else "")
    rows: list[tuple[str, Any, Any]] = [
        ("W2", x.w2, x.w2_expected),
        ("  squared, by the mean", x.location, 1 / x.n),
        ("  squared, by the covariance", x.spread, x.w2_expected**2 - 1 / x.n),
        (f"L_U (t = {x.t:g})", x.lu, x.lu_uniform),
        ("length of the mean", x.mean_norm, x.n**-0.5),
        ("dimensions in use", x.used_dims, x.used_dims_expected),
        ("effective rank", x.effective_rank, float(effective_rank_of(torch.from_numpy(ideal).exp()))),
        ("numerical rank", x.numerical_rank, min(x.m, x.n - 1)),
        ("distinct embeddings", x.distinct, x.n),
        (nearest, x.neighbour, x.neighbour_expected),
        ("norm before division", x.norm_mean, None),
        ("  standard deviation", x.norm_sd, None),
    ]
    if x.alignment is not None:
        rows.append(("alignment", x.alignment, None))
    findings = verdict(x)
    measured = {} if label_free is None else label_free.as_mapping()
    return Report(
        result={
            **as_mapping(x), **measured,
            "verdict": [finding.kind for finding in findings],
            "explanation": [finding.sentence for finding in findings], "file": file,
        },
        tables=[
            Table(
                ("measure", "measured", "uniform sample"), rows, f"{file}: {x.n:,} embeddings of {x.m} dimensions",
                digits=4,
            ),
            *([] if label_free is None else [_label_free_table(label_free)]),
        ],
        notes=[f"Verdict: {finding.kind}. {finding.sentence}" for finding in findings],
        files={
            **({} if label_free is None else {"label_free.csv": _label_free_table(label_free)}),
            "measures.csv": Table(
                ("measure", "measured", "uniform_sample"), [(r[0].strip(), *r[1:]) for r in rows]
            ),
            "spectrum.csv": Table(
                ("rank", "log_singular_value", "uniform_sample"),
                [(i + 1, *pair) for i, pair in enumerate(zip(spectrum, ideal, strict=True))],
            ),
        },
        figures={
            "spectrum": lambda: draw_spectra(
                {"embeddings": spectrum.tolist()}, Look("paper", "single"),
                references={"uniform sample": ideal.tolist()},
            )
        },
        metrics=[
            (0, "embeddings", {
                "w2": x.w2, "lu": x.lu, "mean_norm": x.mean_norm, "effective_rank": x.effective_rank,
                "used_dims": x.used_dims, **({} if label_free is None else label_free.values),
            })
        ],
    )  # fmt: skip


def _label_free_table(x: LabelFree) -> Table:
    columns = ("label-free measure", "measured", "uniform sample", "standard deviation")
    return Table(columns, x.rows(), digits=4)
