"""Tables of retrieval results, and which epoch they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wasskit import console
from wasskit.plugins.metrix.metrics import METRICS
from wasskit.training.run import Metric, RunDirectory

LABELS = {
    "last": "last epoch",
    "best_by_validation": "best on validation classes",
    "best_on_test": "best on the test set (as published)",
}


def epochs_to_report(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Test metrics of the last epoch, of the best on validation classes (if any were kept), and of the best on the
    test set itself, each ``{"epoch": ..., "metrics": {...}}``.

    The last is what published tables report; it chooses the epoch by the very set that it then measures.
    """
    rows = run.metrics()
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
    return {
        name: {"epoch": epoch, "metrics": tested[epoch]} for name, epoch in chosen.items() if epoch in tested
    }


def retrieval_columns(metrics: Mapping[str, float]) -> list[str]:
    """The retrieval metrics among these, in the order of a table; precision@1 is recall@1 and is left out."""
    return [name for name in metrics if name.startswith(("recall@", "map@"))]


def show_runs(
    title: str,
    reports: Mapping[str, Mapping[str, Mapping[str, Any]]],
    paper: Mapping[str, Any] | None = None,
) -> None:
    """Print :func:`epochs_to_report` of several runs by name, and the published figures if there are any."""
    columns = retrieval_columns(next(iter(next(iter(reports.values())).values()))["metrics"])
    rows: list[list[Any]] = []
    for name, report in reports.items():
        for which, entry in report.items():
            values = [entry["metrics"].get(column) for column in columns]
            rows.append([name, f"{LABELS[which]}, {entry['epoch']}", *values])
    published = (paper or {}).get("metrics", {})
    if published:
        rows.append(["published", "", *(published.get(f"test/{column}") for column in columns)])
    console.table(title, ["run", "epoch", *METRICS.headings(*columns).values()], rows)
    if published and (paper or {}).get("source"):
        console.log(f"Published: {console.escape(str((paper or {})['source']))}")


def skipped_steps(rows: Sequence[Metric]) -> float:
    """Share of the steps that mixed nothing, from the logged means (0 for a run without mixing)."""
    values = [row.value for row in rows if (row.split, row.metric) == ("train", "skipped")]
    return sum(values) / len(values) if values else 0.0
