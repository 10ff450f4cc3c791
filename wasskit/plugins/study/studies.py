"""The studies of collapsed spheres, one function each: its cases, and how they are tabulated and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wasskit.plugins.study.cases import Case, CaseResult, collapsed
from wasskit.plugins.study.laws import sphere_lu, subspace_w2
from wasskit.plugins.study.options import Cloning, CloningOptions, UniformityOptions
from wasskit.plugins.study.uniformity import percent, run_cases, study_report
from wasskit.report import Report


def collapse_report(
    config: UniformityOptions, dims: Sequence[int], levels: Sequence[float], device: torch.device
) -> Report:
    """Both metrics over the share of coordinates that are zero (figure 3 of the paper)."""
    cases = [case for eta in levels for m in dims for case in collapsed("collapse", m, eta, config.collapse.rounding)]
    n = config.size(20_000, 4_000)
    # W2 leaves 0 as the root of eta does: the law at every number of coordinates draws that.
    curves = {
        f"$m = {m}$": [
            (1 - kept / m, -sphere_lu(kept, config.metrics.t), -subspace_w2(kept, m))
            for kept in range(min(case.kept for case in cases if case.m == m), m + 1)
        ]
        for m in dims
    }
    return study_report(
        "collapse", "Collapse: a share of the coordinates is zero",
        run_cases("collapse", cases, config, n, device),
        step=lambda o: percent(o.case.eta), split=lambda o: "collapse", metric_suffix=lambda o: f"@{o.case.m}",
        series=lambda o: f"$m = {o.case.m}$", x=lambda o: o.case.eta, xlabel=r"collapsed share $\eta$", curves=curves,
    )  # fmt: skip


def dimension_report(config: UniformityOptions, cells: Sequence[tuple[int, float]], device: torch.device) -> Report:
    """Both metrics over the dimension m at several collapses eta: the (m, eta) of ``cells`` (figure 4)."""
    cases = [case for m, eta in cells for case in collapsed("dimension", m, eta, config.collapse.rounding)]
    n = config.size(50_000, 4_000)
    found = run_cases("dimension", cases, config, n, device)
    # A collapse is drawn and recorded as one series however few of its dimensions exist.
    found.sort(key=lambda o: -o.case.eta)
    return study_report(
        "dimension", "Dimension: what either metric sees of a collapse as m grows", found,
        step=lambda o: 0, split=lambda o: f"collapsed-{100 * o.case.eta:g}", metric_suffix=lambda o: f"@{o.case.m}",
        series=lambda o: rf"$\eta = {100 * o.case.eta:g}\,\%$", x=lambda o: o.case.m, xlabel="dimension $m$",
        log2=True,
    )  # fmt: skip


_CLONING = {
    "fcc": ("Feature cloning: (z, ..., z), k copies appended", "appended copies $k$"),
    "fbc": ("Feature baby: k m zero features appended", "appended blocks of zeros $k$"),
    "icc": ("Instance cloning: k copies of the sample appended", "appended copies $k$"),
}


def cloning_report(kind: Cloning, config: CloningOptions, device: torch.device) -> Report:
    """Both metrics over the number k of clones: of features, of blocks of zeros, or of instances."""
    copies = range(config.copies + 1)
    cases: list[Case] = [
        case for eta in config.levels for case in collapsed(kind, config.dim, eta, config.collapse.rounding, copies)
    ]
    n = config.size(1_000 if kind == "icc" else 50_000, 1_000 if kind == "icc" else 4_000)
    title, xlabel = _CLONING[kind]

    def level(o: CaseResult) -> str:
        return rf"$\eta = {100 * o.case.eta:g}\,\%$"

    return study_report(
        kind, f"{title} (m = {config.dim})", run_cases(kind, cases, config, n, device),
        step=lambda o: o.case.k, split=lambda o: f"{kind}-collapsed-{100 * o.case.eta:g}",
        metric_suffix=lambda o: "",
        series=level, x=lambda o: o.case.k, xlabel=xlabel,
    )  # fmt: skip
