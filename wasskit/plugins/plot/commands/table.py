"""``wasskit plot table``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wasskit.config import Command, CommandOptions, Invocation, option, same
from wasskit.errors import UserError
from wasskit.options import OverwriteOptions
from wasskit.plugins.plot.options import MetricOptions, RunsArgument, WhichOptions

_SUFFIXES: dict[str, Literal["latex", "markdown", "csv"]] = {".tex": "latex", ".md": "markdown", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True)
class PlotTable(CommandOptions):
    """Options of ``wasskit plot table``."""

    source: RunsArgument
    metrics: MetricOptions = MetricOptions()
    files: OverwriteOptions = OverwriteOptions()
    which: Literal["final", "best", "both"] = option(
        "final", help="The last evaluation, the best one by --by, or both.", panel="Metrics"
    )
    by: str | None = same(WhichOptions, "by")
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
    from wasskit.plugins.plot.groups import open_groups
    from wasskit.plugins.plot.reports import table_report
    from wasskit.report import show
    from wasskit.system.files import write_text

    if config.output is not None:
        config.files.refuse_existing(config.output)
    kind = config.format or (_SUFFIXES[config.output.suffix] if config.output is not None else None)
    report = table_report(
        open_groups(config.source), config.which, config.by, metric=config.metrics.metric,
        against_paper=config.against_paper, digits=config.digits, text=kind, caption=config.caption,
    )  # fmt: skip
    show(report)
    text = report.files.get("table")
    if isinstance(text, str) and config.output is not None:
        write_text(config.output, text)
        if not config.json:
            console.result(f"Table: {console.escape(str(config.output))}")
    elif isinstance(text, str) and not config.json:
        console.stdout().print(text, markup=False, soft_wrap=True, end="")
    return {**report.result, **({"output": str(config.output)} if config.output is not None else {})}


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
