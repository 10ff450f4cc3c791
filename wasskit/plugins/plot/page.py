"""One HTML page on one run: figures as inline images, style in the page, nothing fetched.

Every figure is one panel of a single column's width, so that its text stays legible on a phone; the page sets them
side by side where there is room.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wasskit.errors import UserError
from wasskit.pictures import dimensions
from wasskit.pictures.look import Look
from wasskit.plugins.plot import html
from wasskit.plugins.plot.files import cost_tables, read_arrays, result_files, tables_in
from wasskit.plugins.plot.groups import Group, group_runs
from wasskit.plugins.plot.metrics import (
    families,
    heading,
    keys_with_curves,
    main_metrics,
    nested,
    order_of,
    recorded,
    values_of,
)
from wasskit.plugins.plot.opening import read_each
from wasskit.plugins.plot.options import AxisOptions
from wasskit.plugins.plot.panels import dimension_panels
from wasskit.plugins.plot.reports import costs_report, curves_of, palette_report, spectrum_report, transport_report
from wasskit.plugins.plot.runs import Run
from wasskit.report import Report
from wasskit.system.documents import read_csv_rows, read_json
from wasskit.system.files import replace_text, writing
from wasskit.text import html_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK, _WIDE = Look("paper", "single"), Look("paper", "double")
_MOST_IMAGES = 40


def write_report(run: Run, path: Path, *, smooth: float = 0.0, title: str | None = None) -> list[str]:
    """Write the page.

    Returns:
        What could not be shown, in words; it is on the page as well.

    Raises:
        UserError: the file cannot be written.
    """
    page = _Page(run, smooth)
    text = page.html(title or run.name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return page.notes


class _Page:
    """The page of one run, section by section; what goes wrong in one is noted and leaves the others."""

    def __init__(self, run: Run, smooth: float) -> None:
        self.run = run
        self.smooth = smooth
        self.notes: list[str] = []
        (self.group,) = group_runs([run])
        self.groups: list[Group] = [self.group]
        self.known = recorded(self.groups)

    def html(self, title: str) -> str:
        files, figures = ("Results in files", self.files()), ("Figures of the run", self.samples())
        # A study has drawn its own figures: its steps are not a training.
        found = (
            [
                ("Results", _results(self.run, self.group)),
                ("Curves", self.curves()),
                ("Over the dimensions", self.dims()),
                files,
                figures,
            ]
            if self.group.is_training
            else [figures, files]
        )
        sections = [
            *found,
            ("Configuration", html.definitions(self.run.options)),
            ("Environment", _environment(self.run)),
        ]
        return html.page(title, _header(self.run, title), sections)

    def curves(self) -> str:
        if not self.known:
            return ""
        nests = families(self.known)
        single = [key for key in self.known if (at := nested(key)) is None or at[0] not in nests]
        loss = [key for key in single if key == "train/loss"]
        keys = list(dict.fromkeys([*loss, *main_metrics(self.groups, single, limit=8)]))
        terms = [key for key in single if key.startswith("train/") and key not in keys]
        drawn = [(heading(key), [key]) for key in keys_with_curves(self.groups, [*keys, *terms[:8]])]
        for base, numbers in nests.items():
            members = keys_with_curves(self.groups, [f"{base}@{n}" for n in numbers[:9]])
            if members and not base.startswith("train/"):
                drawn.append((f"{heading(base)} at each size", members))
        axes = AxisOptions(smooth=self.smooth)
        return html.figures(
            (name, curves_of(self.groups, members, _LOOK, axes, title="")[0]()) for name, members in drawn
        )

    def dims(self) -> str:
        final = values_of(self.group, "final", None)
        bases = {base: numbers for base, numbers in families(final).items() if not base.startswith("train/")}
        if not bases:
            return ""
        panels = dimension_panels([final], dict(list(bases.items())[:9]))
        figures = [
            (heading(base), dimensions.draw_dims([self.group.caption], [panel], _LOOK))
            for base, panel in zip(bases, panels, strict=False)
        ]
        numbers = sorted({n for own in bases.values() for n in own})
        rows = [
            [str(n), *(final[key].mean if (key := f"{base}@{n}") in final else None for base in bases)] for n in numbers
        ]
        return html.figures(figures) + html.table(["", *map(heading, bases)], rows)

    def files(self) -> str:
        """What other commands have written beside: JSON and CSV tables, spectra, maps, palettes, trade-offs."""
        parts = [self._drawn_files()]
        for path in result_files(self.run.path, "*.json"):
            try:
                document = read_json(path)
            except UserError as error:
                self._note(str(error))
                continue
            name = path.relative_to(self.run.path).as_posix()
            if name == "evaluation.json" and isinstance(document, Mapping):
                document = {key: value for key, value in document.items() if not self._shown_in_results(value)}
            content = html.scalars(document)
            for key, rows in tables_in(document):
                heads = list(dict.fromkeys(k for row in rows for k in row))
                content += f"<h4>{html_text(key)}</h4>" + html.table(
                    heads, [[row.get(k) for k in heads] for row in rows]
                )
            if content:
                parts.append(f"<h3>{html_text(name)}</h3>{content}")
        for path in sorted(self.run.path.glob("*.csv")):
            if path.name != "metrics.csv":
                parts.append(self._csv(path))
        return "".join(parts)

    def _shown_in_results(self, values: Any) -> bool:
        """Whether these are metrics that the section on results has shown already."""
        numbers = [k for k, v in values.items() if isinstance(v, int | float)] if isinstance(values, Mapping) else []
        names = {*self.run.measured, *(key.rpartition("/")[2] for key in self.run.measured)}
        return bool(numbers) and set(numbers) <= names

    def _drawn_files(self) -> str:
        from wasskit.plugins.plot.clouds import transport_from
        from wasskit.plugins.plot.sources import palettes_of, spectra_of

        folder = self.run.path
        figures: list[tuple[str, Report]] = []
        try:
            figures.append(("singular spectrum", spectrum_report(spectra_of(folder), _LOOK)))
        except UserError as error:
            self._note(str(error), only_if=bool(result_files(folder, "spectrum*.npz")))
        tables, troubles = read_each(result_files(folder, "*.json"), cost_tables)
        for table in [table for found in tables for table in found][:6]:
            name = f"{table.path.stem}: {heading(table.preferred)}"
            figures.append((name, costs_report([("", table)], table.preferred, _LOOK)))
        paths = result_files(folder, "transport*.npz")[:6]
        maps, more = read_each(paths, lambda path: transport_from(path.stem, read_arrays(path)))
        wide = [(found.name, transport_report([found], _WIDE)) for found in maps]
        colours = [folder] if result_files(folder, "palette*.npz") else []
        palettes, others = read_each(colours, lambda path: palette_report(palettes_of(path), _WIDE))
        wide += [("palettes", found) for found in palettes]
        troubles += [*more, *others]
        for trouble in troubles:
            self._note(trouble)
        return html.figures(map(_drawn, figures)) + html.figures(map(_drawn, wide), wide=True)

    def _csv(self, path: Path) -> str:
        try:
            rows = [row for _, row in read_csv_rows(path)]
        except UserError as error:
            self._note(str(error))
            return ""
        if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
            return ""
        return f"<h3>{html_text(path.name)}</h3>" + html.table(
            rows[0], [[html.typed(cell) for cell in row] for row in rows[1:]]
        )

    def samples(self) -> str:
        folder = self.run.path / "figures"
        found = [*sorted(folder.rglob("*")), *sorted(self.run.path.glob("*"))]
        paths = [path for path in found if path.suffix.lower() in html.IMAGES and path.is_file()]
        parts = []
        for path in paths[:_MOST_IMAGES]:
            name = path.relative_to(folder if folder in path.parents else self.run.path).as_posix()
            try:
                kind, data = html.read_image(path)
            except UserError:
                self._note(f"{path} cannot be shown: it is damaged or no image.")
                continue
            parts.append(html.image(name, kind, data, wide=True))
        if len(paths) > _MOST_IMAGES:
            self._note(f"{self.run.path} holds {len(paths)} images; the first {_MOST_IMAGES} are shown.")
        notes = "".join(f'<p class="note">{html_text(note)}</p>' for note in self.notes)
        return ('<div class="figures">' + "".join(parts) + "</div>" if parts else "") + notes

    def _note(self, text: str, *, only_if: bool = True) -> None:
        if only_if and text not in self.notes:
            self.notes.append(text)


def _drawn(named: tuple[str, Report]) -> tuple[str, Figure]:
    """The only figure of a report, under a name."""
    name, report = named
    (draw,) = report.figures.values()
    return name, draw()


def _header(run: Run, title: str) -> str:
    environment = run.environment
    summary = run.summary or {}
    facts = {
        "command": f"wasskit {run.command}" if run.command else None,
        "started": html.moment(environment.get("started")),
        "steps": summary.get("steps"),
        "wall time": html.duration(summary.get("wall_seconds")),
        "rate": f"{rate:,.0f} samples/s" if isinstance(rate := summary.get("samples_per_second"), float) else None,
        "seed": run.seed,
    }
    items = "".join(
        f"<div><dt>{html_text(k)}</dt><dd>{html_text(v)}</dd></div>" for k, v in facts.items() if v is not None
    )
    state = "finished" if run.finished else "unfinished"
    problems = "".join(f"<li>{html_text(problem)}</li>" for problem in run.problems)
    return (
        f'<h1>{html_text(title)} <span class="state {state}">{html_text(run.state)}</span></h1>'
        f'<dl class="facts">{items}</dl>' + (f'<ul class="problems">{problems}</ul>' if problems else "")
    )


def _results(run: Run, group: Group) -> str:
    """The final metrics, the best and the published ones beside."""
    final = values_of(group, "final", None)
    by = run.monitor
    order = order_of(by) if by else None
    best = run.best(by, order) if by and order else {}
    published: Mapping[str, Any] = run.paper.get("metrics", {})
    shown = [key for key in [*published, *final] if not key.startswith(("train/", "run/"))]
    plain = [key for key in dict.fromkeys(shown) if nested(key) is None or key in published]
    keys = plain or list(dict.fromkeys(shown))
    if not keys:
        return "<p>No evaluation has been recorded.</p>"
    heads = ["metric", "final"] + (["best"] if best else []) + (["published", "difference"] if published else [])
    rows = []
    for key in keys[: html.MOST_ROWS]:
        value = final[key].mean if key in final else None
        row: list[Any] = [heading(key), value]
        if best:
            row.append(best.get(key))
        if published:
            paper = published.get(key)
            row += [paper, f"{value - paper:+.4g}" if value is not None and paper is not None else None]
        rows.append(row)
    notes = [f"Best: the evaluation where {by} was best."] if best else []
    if published and run.paper.get("source"):
        notes.append(f"Published: {run.paper['source']}.")
    return html.table(heads, rows) + "".join(f'<p class="note">{html_text(note)}</p>' for note in notes)


def _environment(run: Run) -> str:
    environment = dict(run.environment)
    resumed = environment.pop("resumed", None)
    flat: dict[str, Any] = {}
    for key, value in environment.items():
        entries = value.items() if isinstance(value, Mapping) else ((None, value),)
        flat |= {f"{key}: {inner}" if inner else str(key): entry for inner, entry in entries}
    if isinstance(resumed, list) and resumed:
        flat["resumed"] = ", ".join(str(entry.get("started")) for entry in resumed if isinstance(entry, Mapping))
    return html.definitions(flat)
