"""``wasskit plot table``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, option
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions
from wasskit.plugins.plot.options import MetricOptions, RunsArgument

_SUFFIXES = {".tex": "latex", ".md": "markdown", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True)
class PlotTable(RunsArgument, MetricOptions, OverwriteOptions, CommandOptions):
    """Options of ``wasskit plot table``."""

    which: Literal["final", "best", "both"] = option(
        "final", help="The last evaluation, the best one by --by, or both.", panel="Metrics"
    )
    by: str | None = option(
        None, help="Metric that decides which evaluation is the best.", panel="Metrics", metavar="METRIC",
        show_default="the one the run monitored",
    )  # fmt: skip
    against_paper: bool = option(
        False,
        help="Published figures of the runs' recipes and the difference beside.",
        panel="Metrics",
        flag="--against-paper",
    )
    format: Literal["latex", "markdown", "csv"] | None = option(
        None, help="Format.", panel="Table", show_default="by the suffix of --output; else for the terminal"
    )
    digits: int | None = option(
        None, help="Decimals.", panel="Table", min=0, max=10, show_default="2, more for small numbers"
    )
    caption: str | None = option(None, help="Caption of the LaTeX table.", panel="Table")
    output: Path | None = option(
        None, help="File to write (.tex, .md, .csv).", panel="Table", short="-o", show_default="stdout"
    )

    def validate(self) -> None:
        super().validate()
        if self.output is not None and self.format is None and self.output.suffix not in _SUFFIXES:
            raise UserError(
                f"--output {self.output}: the format is not clear; use .tex, .md or .csv, or give --format."
            )


def body(config: PlotTable, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.pictures.bars import Value
    from wasskit.plugins.plot.common import described, open_groups
    from wasskit.plugins.plot.metrics import choose, main_metrics, monitored, tabulated, values_of
    from wasskit.plugins.plot.tables import make_table, records, to_csv, to_latex, to_markdown, to_terminal
    from wasskit.system.files import replace_text, writing

    if config.output is not None:
        config.claim(config.output)
    groups = open_groups(config)
    known = tabulated(groups)
    published = [key for group in groups for key in group.paper.get("metrics", {})]
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to tabulate.")
    if config.against_paper and not published:
        # No refusal: the runs of a folder are rarely all chosen, and the table is right without that column.
        console.warn(
            "None of the runs has published figures: they come with a recipe that has [paper.metrics]."
        )
    keys = (
        choose(config.metric, [*known, *published]) if config.metric else main_metrics(groups, known, limit=8)
    )
    if config.against_paper and not config.metric:
        keys = list(dict.fromkeys([*published, *keys]))[:12]
    choices: list[Literal["final", "best"]] = ["final", "best"] if config.which == "both" else [config.which]
    by = monitored(groups, config.by) if "best" in choices else None
    values: dict[str, list[Mapping[str, Value]]] = {
        which: [values_of(group, which, by) for group in groups] for which in choices
    }
    table = make_table(groups, values, keys, against_paper=config.against_paper, digits=config.digits)
    kind = config.format or (_SUFFIXES[config.output.suffix] if config.output is not None else None)
    if by is not None:
        console.log(f"Best evaluation of each run by {by}.")
    if kind is not None:
        text = {
            "latex": lambda: to_latex(table, caption=config.caption),
            "markdown": lambda: to_markdown(table),
            "csv": lambda: to_csv(table),
        }[kind]()
        if config.output is not None:
            with writing(config.output):
                config.output.parent.mkdir(parents=True, exist_ok=True)
            replace_text(config.output, text)
            if not config.json:
                console.result(f"Table: {console.escape(str(config.output))}")
        elif not config.json:
            console.stdout().print(text, markup=False, soft_wrap=True, end="")
    elif not config.json:
        console.stdout().print(to_terminal(table))
        for note in table.notes:
            console.warn(note)
        for source in table.sources:
            console.log(f"Published: {console.escape(source)}")
    return {
        "metrics": keys,
        "rows": records(table),
        "sources": list(table.sources),
        "groups": described(groups),
        **({"output": str(config.output)} if config.output is not None else {}),
    }


command = Command(
    "plot table",
    PlotTable,
    body,
    "Tabulate metrics as LaTeX, Markdown or CSV.\n\n"
    "One row per run, or per group of runs that differ only in their seed (mean and standard deviation). Settings that "
    "differ between the runs are columns; the best entry of each metric is bold. With --against-paper the published "
    "figures of the recipe stand beside, with the difference.",
    (
        "wasskit plot table runs/mrl/*",
        "wasskit plot table runs/ssl --against-paper --format latex -o table.tex",
        "wasskit plot table runs/mrl/digits --metric 'test/top1@*' --which both --format markdown",
    ),
)
