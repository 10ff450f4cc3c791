"""``wasskit plot``: any set of runs as figures, tables and a page to read."""

from __future__ import annotations

from wasskit.plugins import Plugin

plugin = Plugin(
    name="plot",
    help="Draw runs as figures, tables and reports.",
    commands={
        "compare": "Draw all there is to compare between runs, and tabulate it.",
        "curves": "Draw metrics over the course of training.",
        "dims": "Draw metrics over the nested dimensions.",
        "spectrum": "Draw singular spectra of embeddings.",
        "transport": "Draw transport maps: arrows and the warped grid.",
        "palette": "Draw the colours of images as clouds.",
        "retrieval": "Draw accuracy against cost.",
        "table": "Tabulate metrics as LaTeX, Markdown or CSV.",
        "results": "Write one page with the results of many runs.",
        "report": "Write one self-contained HTML page on a run.",
    },
    package="wasskit.plugins.plot.commands",
)
