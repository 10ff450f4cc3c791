"""``wasskit mrl retrieve``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.mrl.options import ModelDataOptions


@dataclass(frozen=True, kw_only=True)
class MrlRetrieve(ModelDataOptions):
    """Options of ``wasskit mrl retrieve``."""

    gallery: str = option("train", help="Split that is searched.", panel="Data")
    shortlist: int = option(
        200,
        help="Items that the first search keeps; a funnel halves it at each step.",
        panel="Measures",
        min=10,
    )

    def validate(self) -> None:
        super().validate()
        if self.gallery == self.split:
            from wasskit.errors import UserError

            raise UserError(f"--gallery and --split are both {self.split!r}: search another split.")


def body(config: MrlRetrieve, invocation: Invocation) -> Mapping[str, Any]:
    from dataclasses import asdict

    from torch import Tensor

    from wasskit import console
    from wasskit.distributed.group import group, is_main
    from wasskit.plugins.mrl.adaptive import adaptive_plans, funnel_plans, retrieval_outcome, single_shots
    from wasskit.plugins.mrl.figures import draw_costs
    from wasskit.plugins.mrl.metrics import METRICS
    from wasskit.plugins.mrl.tables import show_costs, write_result
    from wasskit.plugins.mrl.trained import KIND, embed_split, labels_of, open_split
    from wasskit.trained.files import results_folder

    with group(config.device) as device:
        folder = results_folder(
            config.model, config.output, plugin="mrl", claim=config.claim,
            files=("retrieval.json", "figures/retrieval.png"),
        )  # fmt: skip
        model = KIND.load(config.model, device, config.checkpoint)
        query_set, gallery_set = (open_split(model, config, name) for name in (config.split, config.gallery))
        queries = embed_split(model, config, query_set, device)
        gallery = embed_split(model, config, gallery_set, device)
        labels, gallery_labels = labels_of(queries, query_set), labels_of(gallery, gallery_set)
        size, dims = len(gallery_set), model.dims
        plans = [
            *single_shots(dims, size),
            *adaptive_plans(dims, size, config.shortlist),
            *funnel_plans(dims, size, config.shortlist),
        ]
        searched: dict[int, Tensor] = {}
        found = {
            # Longest lists first: what they searched serves the others.
            plan: retrieval_outcome(
                queries.features, labels, gallery.features, gallery_labels, plan, searched=searched
            )
            for plan in sorted(plans, key=lambda plan: len(plan.stages), reverse=True)
        }
        outcomes = [found[plan] for plan in plans]

    result: dict[str, Any] = {
        "model": str(config.model),
        "dataset": query_set.name,
        "queries": config.split,
        "gallery": config.gallery,
        "gallery_size": size,
        "shortlist": min(config.shortlist, size),
        "protocol": "cosine of prefixes; operations: multiply-adds of inner products per query",
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    figures = []
    if is_main():
        path = write_result(folder / "retrieval.json", result)
        points = {
            name: [
                (o.operations, o.metrics["map10"], o.text.split(" > ")[0]) for o in outcomes if o.name == name
            ]
            for name in dict.fromkeys(o.name for o in outcomes)
        }
        figures.append(
            draw_costs(
                folder / "figures" / "retrieval.png",
                points,
                cost="multiply-adds per query",
                label="mAP@10 (%)",
                title=f"{query_set.name}: {size:,} items; labels: first dimension",
            )
        )
        show_costs(
            f"{query_set.name}: {config.split} queries, {size:,} {config.gallery} images searched",
            outcomes,
            METRICS.headings("precision1", "map10"),
            "dimensions",
            unit=("MFLOPs per query", 1e6),
            reference=outcomes[len(dims) - 1],
        )
        if not config.json:
            console.result(f"Results: {console.escape(str(path))}")
            for figure in figures:
                console.result(f"Figure: {console.escape(str(figure))}")
    return result | {"figures": [str(figure) for figure in figures]}


command = Command(
    "mrl retrieve",
    MrlRetrieve,
    body,
    "Retrieve with short prefixes first: accuracy against cost.\n\n"
    "Single shot: exact search with one dimension. Adaptive: a shortlist with a short prefix, re-ranked with "
    "the whole embedding. Funnel: the list halves while the prefix doubles. The cost of a query is counted "
    "in multiply-adds of inner products.",
    (
        "wasskit mrl retrieve runs/mrl/digits",
        "wasskit mrl retrieve runs/mrl/digits --shortlist 50",
    ),
)
