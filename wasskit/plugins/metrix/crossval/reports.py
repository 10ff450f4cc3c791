"""What a comparison found, as a report: a pure function of the scores of all repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wasskit.evaluation.intervals import Estimate, holm, mean_interval, paired_difference
from wasskit.pictures.forest import Panel, draw_forest
from wasskit.pictures.look import Look
from wasskit.plugins.metrix.crossval.scores import SCORES
from wasskit.plugins.metrix.metrics import METRICS
from wasskit.report import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROTOCOLS = {
    "separate": "each fold's model alone, mean of the folds",
    "concatenated": "joined embeddings of all folds' models",
}
FORMULA = (
    "Intervals (95 %): mean +- t s / sqrt(n) over the n repeats, t the 0.975 quantile of Student's distribution with "
    "n - 1 degrees of freedom, s the deviation over the repeats; of a difference, s is that of the differences within "
    "repeats, which share folds, initial weights and batches. p: paired t test, two-sided, adjusted by Holm over all "
    "differences of the table. They say how training and folds vary, not how other test classes would do."
)


@dataclass(frozen=True)
class Protocol:
    """How a comparison was made: ``trials`` of each loss and mode, ``epochs`` of each model, test items and classes."""

    dataset: str
    folds: int
    trials: int
    epochs: int
    queries: int
    classes: int
    frozen: bool

    @property
    def unlearned(self) -> str:
        """What is scored without any training."""
        return "frozen features" if self.frozen else "raw pixels"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and the mean MAP@R of their folds' validation; None where a fold's model ``failed``."""

    settings: Mapping[str, Any]
    validation: float | None
    failed: str | None = None


@dataclass(frozen=True)
class Result:
    """A loss with a mode: its trials, which was chosen, the best epoch of every model of the repeats, and the test
    scores of each repeat by both protocols."""

    loss: str
    mode: str
    trials: Sequence[Trial]
    chosen: int
    epochs: Sequence[int]
    separate: Sequence[Mapping[str, float]]
    concatenated: Sequence[Mapping[str, float]]

    def values(self, protocol: str, metric: str) -> list[float]:
        """One score of every repeat."""
        return [scores[metric] for scores in getattr(self, protocol)]


@dataclass(frozen=True)
class Row:
    """What there is to say of a loss with a mode by one protocol: each score, and its difference to the baseline (None
    for the baseline itself), whose ``p`` is adjusted."""

    loss: str
    mode: str
    scores: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] | None


def crossval_report(
    protocol: Protocol, results: Sequence[Result], untrained: Mapping[str, float] | None = None
) -> Report:
    """Tables of both protocols with intervals and paired differences, what was tuned, a forest plot of each.

    Args:
        untrained: scores without any training, of a frozen trunk's features or of raw pixels, and their ``validation``
            MAP@R.
    """
    rows = {name: compared(results, name) for name in PROTOCOLS}
    repeats = len(results[0].separate)
    result = {
        **asdict(protocol), "repeats": repeats, "untrained": untrained,
        **{name: [_plain(row) for row in found] for name, found in rows.items()},
        "tuning": [
            {
                "loss": r.loss, "mode": r.mode, "chosen": r.chosen, "trials": [asdict(trial) for trial in r.trials],
                "best_epochs": list(r.epochs),
            }
            for r in results
        ],
    }  # fmt: skip
    tables = [_table(protocol, repeats, name, found, untrained) for name, found in rows.items()]
    figures = {
        "forest" if name == "separate" else f"forest_{name}": _forest(protocol, name, found, untrained)
        for name, found in rows.items()
    }
    files: dict[str, Any] = {"crossval.csv": _tidy(rows), "repeats.csv": _repeats(results), "crossval.json": result}
    notes = [FORMULA] if repeats > 1 else ["One repeat gives no interval: take more --repeats."]
    notes += unfinished(results, protocol.epochs)
    return Report(result, [*tables, _tuning(protocol, results, untrained)], notes=notes, files=files, figures=figures)


def unfinished(results: Sequence[Result], last: int) -> list[str]:
    """A sentence on those of which most models were best at the last epoch; empty without such."""
    found = [
        f"{r.loss}/{r.mode} ({r.epochs.count(last)} of {len(r.epochs)})"
        for r in results
        if 2 * r.epochs.count(last) > len(r.epochs)
    ]
    return (
        [f"Most models are best at their last epoch and may gain by more --epochs: {', '.join(found)}."]
        if found
        else []
    )


def compared(results: Sequence[Result], protocol: str) -> list[Row]:
    """Every result beside the baseline of its loss."""
    baselines = {result.loss: result for result in results if result.mode == "baseline"}
    found = {
        (r.loss, r.mode): {
            name: paired_difference(r.values(protocol, name), baselines[r.loss].values(protocol, name))
            for name in SCORES
        }
        for r in results
        if r.mode != "baseline"
    }
    adjusted = {
        name: dict(zip(found, holm([estimates[name].p for estimates in found.values()]), strict=True))
        for name in SCORES
    }
    return [
        Row(
            r.loss,
            r.mode,
            {name: mean_interval(r.values(protocol, name)) for name in SCORES},
            {name: replace(e, p=adjusted[name][r.loss, r.mode]) for name, e in found[r.loss, r.mode].items()}
            if r.mode != "baseline"
            else None,
        )
        for r in results
    ]


def _plain(row: Row) -> dict[str, Any]:
    scores = {name: asdict(estimate) for name, estimate in row.scores.items()}
    differences = {name: asdict(estimate) for name, estimate in (row.differences or {}).items()}
    return {"loss": row.loss, "mode": row.mode, **scores, "difference": differences or None}


def _text(estimate: Estimate, *, signed: bool = False) -> str:
    half = estimate.half_width
    mean = f"{estimate.mean:+.2f}" if signed else f"{estimate.mean:.2f}"
    return mean if half is None else f"{mean} ± {half:.2f}"


def _table(
    protocol: Protocol, repeats: int, name: str, rows: Sequence[Row], untrained: Mapping[str, float] | None
) -> Table:
    headings = METRICS.headings(*SCORES)
    lines: list[list[Any]] = [
        [row.loss, row.mode, *(_text(row.scores[metric]) for metric in SCORES), *_to_baseline(row)] for row in rows
    ]
    if untrained is not None:
        lines.append(["none", protocol.unlearned, *(f"{untrained[metric]:.2f}" for metric in SCORES), None, None])
    title = (
        f"{protocol.dataset}, {protocol.queries:,} images of {protocol.classes} classes never trained on, percent: "
        f"{PROTOCOLS[name]} ({protocol.folds} folds, {repeats} repeats, {protocol.trials} trials each)"
    )
    return Table(["loss", "mode", *headings.values(), "MAP@R to baseline", "p"], lines, title)


def _to_baseline(row: Row) -> tuple[str | None, str | None]:
    """The difference of MAP@R and its p-value, as text."""
    if row.differences is None:
        return None, None
    found = row.differences["map@r"]
    return _text(found, signed=True), None if found.p is None else f"{found.p:.2g}"


def _tuning(protocol: Protocol, results: Sequence[Result], untrained: Mapping[str, float] | None) -> Table:
    lines: list[list[Any]] = [
        [r.loss, r.mode, r.trials[r.chosen].validation, r.trials[0].validation, _settings(r.trials[r.chosen].settings)]
        for r in results
    ]
    if untrained is not None:
        lines.append(["none", protocol.unlearned, untrained["validation"], None, None])
    return Table(
        ["loss", "mode", "validation", "of the defaults", "chosen settings"], lines,
        "Tuning: MAP@R on held-out training classes (percent)",
    )  # fmt: skip


def _settings(chosen: Mapping[str, Any]) -> str:
    """In words, with three digits, as they were drawn."""
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in chosen.items()}
    return ", ".join(
        f"{name.replace('_', ' ')} {','.join(f'{number:.3g}' for number in numbers)}"
        for name, numbers in values.items()
    )


def _tidy(rows: Mapping[str, Sequence[Row]]) -> Table:
    """One line for each estimate; differences are those to the baseline of the loss."""
    lines: list[list[Any]] = [
        [name, row.loss, row.mode, metric, kind, e.mean, e.low, e.high, e.p, e.count]
        for name, found in rows.items()
        for row in found
        for kind, estimates in (("score", row.scores), ("difference", row.differences or {}))
        for metric, e in estimates.items()
    ]
    return Table(["protocol", "loss", "mode", "metric", "kind", "mean", "low", "high", "p_holm", "repeats"], lines)


def _repeats(results: Sequence[Result]) -> Table:
    """One line for each score of each repeat."""
    lines = [
        [name, r.loss, r.mode, number, metric, value]
        for name in PROTOCOLS
        for r in results
        for metric in SCORES
        for number, value in enumerate(r.values(name, metric))
    ]
    return Table(["protocol", "loss", "mode", "repeat", "metric", "value"], lines)


def _forest(protocol: Protocol, name: str, rows: Sequence[Row], untrained: Mapping[str, float] | None) -> Any:
    losses = list(dict.fromkeys(row.loss for row in rows))
    groups = [(loss, [row.mode for row in rows if row.loss == loss]) for loss in losses]

    def draw() -> Figure:
        differences = [None if row.differences is None else row.differences["map@r"] for row in rows]
        reference = None if untrained is None else untrained["map@r"]
        words = "MAP@R (%)" if untrained is None else f"MAP@R (%); line: {protocol.unlearned}"
        panels = [
            Panel(words, [row.scores["map@r"] for row in rows], reference),
            Panel("difference to the baseline", differences, 0.0),
        ]
        return draw_forest(groups, panels, Look("paper", "double"), title=f"{protocol.dataset}, {PROTOCOLS[name]}")

    return draw
