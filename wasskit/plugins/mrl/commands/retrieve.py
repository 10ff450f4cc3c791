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
    from wasskit.distributed.group import group
    from wasskit.plugins.mrl.reports import retrieval_report
    from wasskit.plugins.mrl.trained import KIND, embedded
    from wasskit.report import finish
    from wasskit.trained.data import open_split, results_of

    with group(config.machine.device) as device:
        folder = results_of(config, "mrl", "retrieval.json", "figures/retrieval.png")
        model = KIND.load(config.trained.model, device, config.trained.checkpoint)
        opened = [open_split(model, config, name) for name in (config.split, config.gallery)]
        queries, gallery = (embedded(model, config, dataset, device) for dataset in opened)
        report = retrieval_report(
            queries, gallery, model.dims, shortlist=config.shortlist, name=str(config.trained.model)
        )
    return finish(report, folder)


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
