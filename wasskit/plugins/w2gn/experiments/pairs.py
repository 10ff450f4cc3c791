"""Pairs of measures whose optimal map is known, and how maps between them are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from wasskit.data.toy import Measure
from wasskit.distributed.shard import map_shards
from wasskit.evaluation.transport import l2_uvp, transport_cosine
from wasskit.plugins.w2gn.core.transport import W2GN, Refine
from wasskit.plugins.w2gn.figures import History, draw_history
from wasskit.plugins.w2gn.metrics import METRICS
from wasskit.report import Report, Table

_UVP = ("uvp_forward", "uvp_inverse", "uvp_inverse_solved")


@dataclass
class KnownPair:
    """Two measures, the optimal map between them, and test points with their images.

    ``source_variance`` and ``target_variance`` are the total variances that UVP divides by.
    """

    name: str
    dim: int
    source: Measure
    target: Measure
    forward: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor
    source_variance: float
    target_variance: float
    note: str = ""

    def scores(self, transport: W2GN, refine: Refine = "none") -> dict[str, dict[str, float]]:
        """UVP in percent and cosine of both maps on the test points. Called by all ranks.

        Args:
            refine: also judge the inverse that is solved for by this method.
        """
        device = next(transport.parameters()).device
        x, y = self.x.to(device), self.y.to(device)
        forward = map_shards(transport.forward_map, x).cpu()
        inverse = map_shards(transport.inverse_map, y).cpu()
        values = self.compare(forward, inverse)
        if refine != "none":
            solved = map_shards(partial(transport.inverse_map, refine=refine), y).cpu()
            values["uvp_inverse_solved"] = l2_uvp(solved, self.x, self.source_variance)
        return {"test": values}

    def compare(self, forward: Tensor, inverse: Tensor) -> dict[str, float]:
        """UVP in percent and cosine of images (N, D) of the test points under both maps."""
        return {
            "uvp_forward": l2_uvp(forward, self.y, self.target_variance),
            "uvp_inverse": l2_uvp(inverse, self.x, self.source_variance),
            "cosine_forward": transport_cosine(self.x, forward, self.y),
            "cosine_inverse": transport_cosine(self.y, inverse, self.x),
        }

    def report(self, final: Mapping[str, float], begun: Mapping[str, float], history: History | None = None) -> Report:
        """The scores and the learning curves.

        Args:
            final: the scores, as ``split/metric``.
            begun: those at the start of the training, by metric.
            history: metrics over the steps of the training.
        """
        labels, levels = METRICS.headings(*_UVP), {"start": begun["uvp_forward"]}
        figures = draw_history("uvp", history, labels, ylabel="unexplained variance (%)", levels=levels)
        scores = {name.removeprefix("test/"): value for name, value in final.items()}
        result = {"pair": self.name, "note": self.note, "scores": scores, "scores_at_start": dict(begun)}
        return Report(result, figures=figures)


def dimensions_report(
    name: str, results: Mapping[int, Mapping[str, Any]], published: Mapping[str, Mapping[int, Any]]
) -> Report:
    """The table over dimensions: one row per measure and per published solver.

    Args:
        name: of the experiment and of the file.
        results: of each dimension's training.
        published: rows of values by dimension.
    """

    def row(title: str, entry: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [title, *(entry(result) for result in results.values())]

    def scores(part: str, key: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda result: f"{result[part][key]:.3g}" if key in result[part] else "-"

    headings = METRICS.headings(*_UVP, "cosine_forward", "cosine_inverse")
    rows = [
        *(row(heading, scores("scores", key)) for key, heading in headings.items()),
        *(row(f"start, {headings[key]}", scores("scores_at_start", key)) for key in ("uvp_forward", "uvp_inverse")),
        row("kept", lambda result: str(result.get("kept", "-"))),
        row("steps", lambda result: str(result["steps"])),
        row("minutes", lambda result: f"{result['wall_seconds'] / 60:.1f}"),
        *([title, *(str(values.get(dim, "-")) for dim in results)] for title, values in published.items()),
    ]
    columns = ["", *(f"D = {dim}" for dim in results)]
    result = {"dimensions": {str(dim): dict(own) for dim, own in results.items()}}
    return Report(result, [Table(columns, rows, f"w2gn {name}, L2-UVP in %")], files={f"{name}.json": result})
