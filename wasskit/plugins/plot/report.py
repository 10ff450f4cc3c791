"""One HTML page on one run: figures as inline images, style in the page, nothing fetched.

Every figure is one panel of a single column's width, so that its text stays legible on a phone; the page sets them
side by side where there is room.
"""

from __future__ import annotations

import base64
import io
import tempfile
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wasskit import __version__
from wasskit.errors import UserError
from wasskit.pictures.look import Look
from wasskit.pictures.style import save_figure
from wasskit.plugins.plot.common import read_each
from wasskit.plugins.plot.files import read_arrays, result_files, tables_in
from wasskit.plugins.plot.metrics import (
    counts_epochs,
    families,
    heading,
    main_metrics,
    nested,
    order_of,
    recorded,
    values_of,
    with_courses,
)
from wasskit.plugins.plot.runs import Group, Run, group_runs, show_setting
from wasskit.system.documents import read_csv_rows, read_json
from wasskit.system.files import replace_text, writing
from wasskit.system.readers import Damage, reader
from wasskit.text import html_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK = Look("paper", "single")
_IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
_LARGEST_SIDE = 1600
_MOST_IMAGES, _MOST_ROWS = 40, 60
_EMBEDDABLE = 1_500_000


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
        # A study has drawn what it found: its steps are no course of training.
        found = (
            [
                ("Results", self.results()),
                ("Curves", self.curves()),
                ("Over the dimensions", self.dims()),
                files,
                figures,
            ]
            if self.group.is_training
            else [figures, files]
        )
        sections = [*found, ("Configuration", self.configuration()), ("Environment", self.environment())]
        shown = [(name, content) for name, content in sections if content]
        links = "".join(f'<a href="#{_anchor(name)}">{html_text(name)}</a>' for name, _ in shown)
        body = "".join(
            f'<section id="{_anchor(name)}"><h2>{html_text(name)}</h2>{content}</section>'
            for name, content in shown
        )
        return _PAGE.format(
            title=html_text(title),
            style=_STYLE,
            header=self.header(title),
            links=links,
            body=body,
            version=html_text(__version__),
        )

    # --- Sections -----------------------------------------------------------------------------------------------------

    def header(self, title: str) -> str:
        run, environment = self.run, self.run.environment
        summary = run.summary or {}
        facts = {
            "command": f"wasskit {run.command}" if run.command else None,
            "started": _moment(environment.get("started")),
            "steps": summary.get("steps"),
            "wall time": _duration(summary.get("wall_seconds")),
            "rate": f"{rate:,.0f} samples/s"
            if isinstance(rate := summary.get("samples_per_second"), float)
            else None,
            "seed": run.seed,
        }
        items = "".join(
            f"<div><dt>{html_text(k)}</dt><dd>{html_text(v)}</dd></div>"
            for k, v in facts.items()
            if v is not None
        )
        state = "finished" if run.finished else "unfinished"
        problems = "".join(f"<li>{html_text(problem)}</li>" for problem in run.problems)
        return (
            f'<h1>{html_text(title)} <span class="state {state}">{html_text(run.state)}</span></h1>'
            f'<dl class="facts">{items}</dl>' + (f'<ul class="problems">{problems}</ul>' if problems else "")
        )

    def results(self) -> str:
        final = values_of(self.group, "final", None)
        by = self.run.monitor
        order = order_of(by) if by else None
        best = self.run.best(by, order) if by and order else {}
        published: Mapping[str, Any] = self.run.paper.get("metrics", {})
        shown = [key for key in [*published, *final] if not key.startswith(("train/", "run/"))]
        plain = [key for key in dict.fromkeys(shown) if nested(key) is None or key in published]
        keys = plain or list(dict.fromkeys(shown))
        if not keys:
            return "<p>No evaluation has been recorded.</p>"
        heads = (
            ["metric", "final"]
            + (["best"] if best else [])
            + (["published", "difference"] if published else [])
        )
        rows = []
        for key in keys[:_MOST_ROWS]:
            value = final[key].mean if key in final else None
            row: list[Any] = [heading(key), value]
            if best:
                row.append(best.get(key))
            if published:
                paper = published.get(key)
                row += [paper, f"{value - paper:+.4g}" if value is not None and paper is not None else None]
            rows.append(row)
        notes = [f"Best: the evaluation where {by} was best."] if best else []
        if published and self.run.paper.get("source"):
            notes.append(f"Published: {self.run.paper['source']}.")
        return _table(heads, rows) + "".join(f'<p class="note">{html_text(note)}</p>' for note in notes)

    def curves(self) -> str:
        from wasskit.plugins.plot.draw import draw_curves

        if not self.known:
            return ""
        nests = families(self.known)
        single = [key for key in self.known if (at := nested(key)) is None or at[0] not in nests]
        loss = [key for key in single if key == "train/loss"]
        keys = list(dict.fromkeys([*loss, *main_metrics(self.groups, single, limit=8)]))
        terms = [key for key in single if key.startswith("train/") and key not in keys]
        epochs = counts_epochs(self.groups, "auto")
        figures = []
        for key in with_courses(self.groups, [*keys, *terms[:8]]):
            fig, _ = draw_curves(self.groups, [key], _LOOK, epochs=epochs, smooth=self.smooth)
            figures.append((heading(key), fig))
        for base, numbers in nests.items():
            members = with_courses(self.groups, [f"{base}@{n}" for n in numbers[:9]])
            if members and not base.startswith("train/"):
                fig, _ = draw_curves(self.groups, members, _LOOK, epochs=epochs, smooth=self.smooth)
                figures.append((f"{heading(base)} at each size", fig))
        return _figures(figures)

    def dims(self) -> str:
        from wasskit.plugins.plot.draw import draw_dims

        final = values_of(self.group, "final", None)
        bases = {base: numbers for base, numbers in families(final).items() if not base.startswith("train/")}
        if not bases:
            return ""
        figures = [
            (heading(b), draw_dims(self.groups, [final], {b: n}, _LOOK)) for b, n in list(bases.items())[:9]
        ]
        numbers = sorted({n for own in bases.values() for n in own})
        rows = [[str(n), *(_mean(final, f"{base}@{n}") for base in bases)] for n in numbers]
        return _figures(figures) + _table(["", *map(heading, bases)], rows)

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
                document = {key: value for key, value in document.items() if not self._told(value)}
            content = _scalars(document)
            for key, rows in tables_in(document):
                heads = list(dict.fromkeys(k for row in rows for k in row))
                content += f"<h4>{html_text(key)}</h4>" + _table(
                    heads, [[row.get(k) for k in heads] for row in rows]
                )
            if content:
                parts.append(f"<h3>{html_text(name)}</h3>{content}")
        for path in sorted(self.run.path.glob("*.csv")):
            if path.name != "metrics.csv":
                parts.append(self._csv(path))
        return "".join(parts)

    def _told(self, values: Any) -> bool:
        """Whether these are metrics that the section on results has shown already."""
        numbers = (
            [k for k, v in values.items() if isinstance(v, int | float)]
            if isinstance(values, Mapping)
            else []
        )
        names = {*self.run.measured, *(key.rpartition("/")[2] for key in self.run.measured)}
        return bool(numbers) and set(numbers) <= names

    def _drawn_files(self) -> str:
        from wasskit.pictures.clouds import draw_palettes
        from wasskit.pictures.maps import draw_transport
        from wasskit.pictures.spectra import draw_spectra
        from wasskit.plugins.plot.clouds import transport_from
        from wasskit.plugins.plot.draw import draw_costs
        from wasskit.plugins.plot.files import cost_tables
        from wasskit.plugins.plot.sources import palettes_of, spectra_of

        folder = self.run.path
        figures: list[tuple[str, Figure]] = []
        try:
            figures.append(("singular spectrum", draw_spectra(spectra_of(folder), _LOOK)))
        except UserError as error:
            self._note(str(error), only_if=bool(result_files(folder, "spectrum*.npz")))
        tables, troubles = read_each(result_files(folder, "*.json"), cost_tables)
        for table in [table for found in tables for table in found][:6]:
            preferred = [name for name in ("map10", "top1") if name in table.accuracies]
            accuracy = (preferred or table.accuracies)[0]
            figures.append(
                (f"{table.path.stem}: {heading(accuracy)}", draw_costs([("", table)], accuracy, _LOOK))
            )
        wide: list[tuple[str, Figure]] = []
        for path in result_files(folder, "transport*.npz")[:6]:
            try:
                fig, _ = draw_transport(transport_from(path.stem, read_arrays(path)), Look("paper", "double"))
                wide.append((path.stem, fig))
            except UserError as error:
                troubles.append(str(error))
        if result_files(folder, "palette*.npz"):
            try:
                wide.append(("palettes", draw_palettes(palettes_of(folder), Look("paper", "double"))))
            except UserError as error:
                troubles.append(str(error))
        for trouble in troubles:
            self._note(trouble)
        return _figures(figures) + _figures(wide, wide=True)

    def _csv(self, path: Path) -> str:
        try:
            rows = [row for _, row in read_csv_rows(path)]
        except UserError as error:
            self._note(str(error))
            return ""
        if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
            return ""
        return f"<h3>{html_text(path.name)}</h3>" + _table(
            rows[0], [[_typed(cell) for cell in row] for row in rows[1:]]
        )

    def samples(self) -> str:
        folder = self.run.path / "figures"
        found = [*sorted(folder.rglob("*")), *sorted(self.run.path.glob("*"))]
        paths = [path for path in found if path.suffix.lower() in _IMAGES and path.is_file()]
        parts = []
        for path in paths[:_MOST_IMAGES]:
            name = path.relative_to(folder if folder in path.parents else self.run.path).as_posix()
            try:
                kind, data = _image(path)
            except UserError:
                self._note(f"{path} cannot be shown: it is damaged or no image.")
                continue
            parts.append(_img(name, kind, data, wide=True))
        if len(paths) > _MOST_IMAGES:
            self._note(f"{self.run.path} holds {len(paths)} images; the first {_MOST_IMAGES} are shown.")
        notes = "".join(f'<p class="note">{html_text(note)}</p>' for note in self.notes)
        return ('<div class="figures">' + "".join(parts) + "</div>" if parts else "") + notes

    def configuration(self) -> str:
        return _definitions(self.run.options)

    def environment(self) -> str:
        environment = dict(self.run.environment)
        resumed = environment.pop("resumed", None)
        flat: dict[str, Any] = {}
        for key, value in environment.items():
            entries = value.items() if isinstance(value, Mapping) else ((None, value),)
            flat |= {f"{key}: {inner}" if inner else str(key): entry for inner, entry in entries}
        if isinstance(resumed, list) and resumed:
            flat["resumed"] = ", ".join(
                str(entry.get("started")) for entry in resumed if isinstance(entry, Mapping)
            )
        return _definitions(flat)

    def _note(self, text: str, *, only_if: bool = True) -> None:
        if only_if and text not in self.notes:
            self.notes.append(text)


# --- Pieces of HTML ---------------------------------------------------------------------------------------------------


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _figures(figures: Iterable[tuple[str, Figure]], *, wide: bool = False) -> str:
    """Figures as images: drawings for lines, pixels for clouds, whose thousands of points would swell a drawing."""
    parts = []
    kind = ".png" if wide else ".svg"
    with tempfile.TemporaryDirectory() as folder:
        for name, fig in figures:
            data = save_figure(fig, Path(folder) / f"figure{kind}", dpi=160).read_bytes()
            parts.append(_img(name, _IMAGES[kind], data, wide=wide))
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _img(name: str, kind: str, data: bytes, *, wide: bool = False) -> str:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    shape = ' class="wide"' if wide else ""
    return (
        f'<figure{shape}><div class="scroll"><img alt="{html_text(name)}" src="{source}"></div>'
        f"<figcaption>{html_text(name)}</figcaption></figure>"
    )


@reader("image", suffixes=tuple(_IMAGES), advice="remove it", largest=1 << 28)
def _image(path: Path) -> tuple[str, bytes]:
    """An image file as it is, or made smaller where it would swell the page."""
    from wasskit.data.images import opened

    data = path.read_bytes()
    kind = _IMAGES[path.suffix.lower()]
    if path.suffix.lower() == ".svg":
        if b"<svg" not in data[:4096]:
            raise Damage("it is no SVG")
        return kind, data
    with opened(data) as image:
        image.load()
        if len(data) <= _EMBEDDABLE:
            return kind, data
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        smaller = io.BytesIO()
        image.convert("RGB").save(smaller, "JPEG", quality=88)
    return _IMAGES[".jpg"], smaller.getvalue()


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [all(_is_numeric(row[i]) for row in rows) for i in range(len(heads))]
    classes = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{c}>{html_text(h)}</th>" for h, c in zip(heads, classes, strict=True))
    shown = rows[:_MOST_ROWS]
    body = "".join(
        "<tr>"
        + "".join(f"<td{c}>{html_text(_shown(v))}</td>" for v, c in zip(row, classes, strict=True))
        + "</tr>"
        for row in shown
    )
    more = (
        f'<p class="note">The first {len(shown)} of {len(rows)} rows.</p>' if len(rows) > len(shown) else ""
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'
    )


def _scalars(document: Any) -> str:
    """The plain values of a JSON object, those one level down under their key."""
    if not isinstance(document, Mapping):
        return ""
    plain: dict[str, Any] = {}
    nestings: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if isinstance(v, str | int | float | bool)}
            if inner:
                nestings[str(key)] = inner
        elif isinstance(value, str | int | float | bool):
            plain[str(key)] = value
    content = _definitions(plain)
    for key, value in document.items():
        if isinstance(value, Mapping) and len(value) > 1:
            content += _grid(str(key), value)
    same = list(nestings.values())
    if len(same) > 1 and all(list(entry) == list(same[0]) for entry in same):
        return content + _table(["", *same[0]], [[name, *entry.values()] for name, entry in nestings.items()])
    for name, entry in nestings.items():
        numbers = all(isinstance(v, int | float) for v in entry.values())
        listed = (
            _table(["metric", name], [[k, v] for k, v in entry.items()]) if numbers else _definitions(entry)
        )
        content += ("" if numbers else f"<h4>{html_text(name)}</h4>") + listed
    return content


def _grid(name: str, rows: Mapping[str, Any]) -> str:
    """A table of numbers under two keys; empty for anything else."""
    if not all(
        isinstance(row, Mapping) and row and all(map(_is_numeric, row.values())) for row in rows.values()
    ):
        return ""
    heads = list(dict.fromkeys(key for row in rows.values() for key in row))
    body = [[key, *(row.get(head) for head in heads)] for key, row in rows.items()]
    return f"<h4>{html_text(name)}</h4>" + _table(["", *heads], body)


def _definitions(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div{_long(value)}><dt>{html_text(key)}</dt><dd>{html_text(_plain(value))}</dd></div>"
        for key, value in values.items()
        if value is not None
    )
    return f'<dl class="settings">{items}</dl>' if items else ""


def _long(value: Any) -> str:
    """A text of more than a line takes the width of the page."""
    return ' class="long"' if len(_plain(value)) > 45 else ""


def _plain(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else ", ".join(map(_plain, value))
        if isinstance(value, list)
        else show_setting(value)
    )


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def _typed(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _is_numeric(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and value[:1] in "+-" and value[1:2].isdigit())
    )


def _mean(values: Mapping[str, Any], key: str) -> float | None:
    return values[key].mean if key in values else None


def _moment(text: Any) -> str | None:
    """``2024-05-01T10:00:00+00:00`` as ``2024-05-01 10:00 UTC``; what is no such time, as it is."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return str(text) if text else None
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>{header}</header>
<nav>{links}</nav>
<main>{body}</main>
<footer>Made by wasskit {version}.</footer>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee3; --blue: #0072b2; --pale: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .75rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3, h4 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
h4 { font-weight: 500; color: var(--soft); }
.state { display: inline-block; font-size: .8rem; font-weight: 500; padding: .1rem .6rem; border-radius: 1rem;
  vertical-align: middle; border: 1px solid; }
.finished { color: #00664b; background: #e7f6f1; }
.unfinished { color: #8a3d00; background: #fdf1e7; }
.problems { color: #8a3d00; padding-left: 1.2rem; }
dl { margin: 0; display: grid; gap: .1rem 1.5rem; }
dl.facts { grid-template-columns: repeat(auto-fit, minmax(10rem, max-content)); }
dl.facts div { min-width: 0; }
dl.settings { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); font-size: .9rem; }
dl.settings div { display: flex; justify-content: space-between; gap: 1rem; padding: .2rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dl.facts dt { font-size: .8rem; }
dl.settings dt { white-space: nowrap; }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dl.settings dd { text-align: right; }
dl.settings div.long { grid-column: 1 / -1; justify-content: flex-start; }
dl.settings div.long dd { text-align: left; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: 1rem; font-size: .9rem; }
a { color: var(--blue); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .25rem 0; }
th, td { padding: .3rem .75rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { border-bottom: 2px solid var(--ink); font-weight: 600; }
th.n, td.n { text-align: right; }
tbody tr:nth-child(even) { background: var(--pale); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
.figures + .figures, .figures + .scroll { margin-top: 1rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure.wide { grid-column: 1 / -1; }
img { display: block; width: 100%; height: auto; }
figure.wide img { width: auto; max-width: 100%; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .25rem; }
.note, footer { font-size: .85rem; color: var(--soft); }
footer { margin-top: 2.5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
@media (max-width: 40rem) {
  figure.wide img { max-width: none; min-width: min(34rem, 150vw); width: 34rem; }
}
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  nav { display: none; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
  .figures { grid-template-columns: repeat(2, 1fr); }
  figure.wide img { max-height: 10cm; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .4rem; white-space: normal; }
  tr { break-inside: avoid; }
}
"""
